"""Short ways to write the parts of a module for reading, and updates for writing."""

from typing import Any

import torch

from loratools.deltas.lora import LoRA, Scaling
from loratools.io.source import Held
from loratools.parts import Update
from tests.formats.bundles import PREFIX


def parts(**shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of parts of the module `layer.q`; `__` in a name becomes a dot."""
    return {f"{PREFIX}layer.q.{key.replace('__', '.')}": shape for key, shape in shapes.items()}


def held(*shape: int) -> Held:
    return Held("a tensor", torch.randn(shape), "F32")


def update(
    rows: int = 4, columns: int = 3, rank: int = 2, alpha: float = 4, rule: Any = "rank"
) -> Update:
    scaling = Scaling(alpha, rank, rule, "config")
    return Update(LoRA(held(rows, rank), held(rank, columns), scaling, (rows, columns)), False)
