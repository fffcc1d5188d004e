"""Deltas applied to small matrices, for tests."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from loratools.deltas import Delta, Span
from loratools.deltas.lora import LoRA, Scaling
from loratools.io.source import Held


def held(values: Any, key: str = "tensor") -> Held:
    return Held(key, torch.tensor(values, dtype=torch.float32), "F32")


def once(alpha: float = 1.0) -> Scaling:
    return Scaling(alpha, 1, "direct", "config")


def lora(up: Any, down: Any, scaling: Scaling | None = None) -> LoRA:
    up, down = held(up, "up"), held(down, "down")
    return LoRA(up, down, scaling or once(), (up.shape[0], down.shape[1]))


def applied(
    delta: Delta, weight: Any, strength: float = 1.0, cuts: Sequence[int] = (), block: int = 0
) -> Tensor:
    """The changed weight, computed in spans that end at `cuts`, in blocks of `block` rows."""
    before = torch.as_tensor(weight, dtype=torch.float64).reshape(len(weight), -1)
    rows = len(before)
    height = block or rows

    def blocks() -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, rows, height):
            yield begin, before[begin : begin + height].clone()

    after = before.clone()
    for begin, end in zip([0, *cuts], [*cuts, rows], strict=True):
        apply = delta.bind(Span(begin, end, torch.float64, blocks), strength)
        for first in range(begin, end, height):
            apply(after[first : min(first + height, end)], first)
    return after
