"""Small PEFT adapters in memory."""

from collections.abc import Mapping
from typing import Any

import torch

from loratools.adapter import Adapter
from loratools.formats import decode
from loratools.io.bundle import Bundle, ConfigName
from loratools.io.source import Held

HERE = ConfigName("here")
PREFIX = "base_model.model."
Shapes = Mapping[str, tuple[int, ...]]


def bundle(shapes: Shapes, config: Mapping[str, Any] | None) -> Bundle:
    """A bundle with tensors of random values, with exactly these keys and shapes."""
    tensors = {key: Held(key, torch.randn(shape), "F32") for key, shape in shapes.items()}
    return Bundle("here", tensors, {}, config, (), 0)


def lora(module: str, rank: int = 2, rows: int = 4, columns: int = 3) -> dict[str, tuple[int, ...]]:
    """The keys and shapes of the two LoRA factors of a linear layer."""
    return {
        f"{PREFIX}{module}.lora_A.weight": (rank, columns),
        f"{PREFIX}{module}.lora_B.weight": (rows, rank),
    }


def config(**fields: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **fields}


def decoded(shapes: Shapes, options: Mapping[str, str] | None = None, **fields: Any) -> Adapter:
    return decode(bundle(shapes, config(**fields)), options)


def notes(adapter: Adapter, severity: str) -> list[str]:
    return [note.message for note in adapter.notes if note.severity == severity]
