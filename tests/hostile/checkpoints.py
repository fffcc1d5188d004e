"""Bases and adapters made on the spot: small, of any names, dtypes and shapes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loratools.io.writer import lay_out

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]


def write_safetensors(
    path: Path, tensors: Shapes, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a file of zeros: `tensors` gives dtype and shape by name."""
    layout = lay_out([(name, *value) for name, value in tensors.items()], metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(layout.header)
        file.truncate(layout.size)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_index(folder: Path, weight_map: Any, **metadata: Any) -> Path:
    """Write `model.safetensors.index.json`."""
    fields = {"metadata": metadata, "weight_map": weight_map}
    return write_json(folder / "model.safetensors.index.json", fields)


def write_adapter(folder: Path, tensors: Shapes, **config: Any) -> Path:
    """Write a PEFT adapter of ones over the square root of their rank, alpha and rank 2."""
    import torch
    from safetensors.torch import save_file

    from loratools.io.dtypes import to_torch

    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"]} | config
    write_json(folder / "adapter_config.json", fields)
    ones = {
        f"base_model.model.{name}": torch.full(shape, 2**-6, dtype=to_torch(dtype))
        for name, (dtype, shape) in tensors.items()
    }
    save_file(ones, folder / "adapter_model.safetensors")
    return folder


def lora(
    target: str, shape: tuple[int, int], rank: int = 2, dtype: str = "F32"
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The two tensors of a LoRA on a linear layer."""
    return {
        f"{target}.lora_A.weight": (dtype, (rank, shape[1])),
        f"{target}.lora_B.weight": (dtype, (shape[0], rank)),
    }


def size(tensors: Shapes) -> int:
    """Elements of all tensors."""
    return sum(math.prod(shape) for _, shape in tensors.values())
