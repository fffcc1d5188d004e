"""The tensors of modules in kohya's files, made in memory."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA
from loratools.formats import decode
from loratools.io.bundle import Bundle
from loratools.io.source import Held

UNET = "lora_unet_mid_block_attentions_0_proj_in"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
TRAINED = {"ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "1.0"}
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
         torch.int64: "I64", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3"}  # fmt: skip


def bundle(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Bundle:
    held = {key: Held(key, tensor, NAMES[tensor.dtype]) for key, tensor in tensors.items()}
    return Bundle("here", held, metadata or {}, config, (), 0)


def module(
    name: str = UNET,
    shape: tuple[int, ...] = (4, 3),
    rank: int = 2,
    alpha: float | None = 1,
    dtype: torch.dtype = torch.float16,
) -> dict[str, Tensor]:
    """The tensors of a module with a LoRA, sorted by key."""
    random = torch.Generator().manual_seed(sum(shape) + rank)
    kernel = (1,) * (len(shape) - 2)
    tensors = {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha, dtype=dtype)}
    down = torch.randn(rank, *shape[1:], generator=random).to(dtype)
    up = torch.randn(shape[0], rank, *kernel, generator=random).to(dtype)
    return tensors | {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}


def decoded(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Adapter:
    return decode(bundle(tensors, metadata))


def lora_of(adapter: Adapter, name: str = UNET) -> LoRA:
    lora = adapter.updates[f"{name}.weight"].delta
    assert isinstance(lora, LoRA)
    return lora


def tucker(
    name: str = UNET,
    shape: tuple[int, ...] = (4, 3, 3, 3),
    ranks: tuple[int, int] = (2, 2),
    alpha: float | None = 1,
    dtype: torch.dtype = torch.float16,
) -> dict[str, Tensor]:
    """The tensors of a module with a LoCon that has a Tucker core, sorted by key."""
    random = torch.Generator().manual_seed(sum(shape) + sum(ranks))
    kernel = (1,) * (len(shape) - 2)
    shapes = {"down": (ranks[1], shape[1], *kernel), "mid": (*ranks, *shape[2:]),
              "up": (shape[0], ranks[0], *kernel)}  # fmt: skip
    tensors = {} if alpha is None else {f"{name}.alpha": torch.tensor(alpha, dtype=dtype)}
    return tensors | {
        f"{name}.lora_{part}.weight": torch.randn(shapes[part], generator=random).to(dtype)
        for part in shapes
    }


def magnitude(
    *shape: int, name: str = UNET, dtype: torch.dtype = torch.float16
) -> dict[str, Tensor]:
    """A DoRA's magnitudes 1, 2, 3 … for the module, in this shape."""
    return {f"{name}.dora_scale": 1 + torch.arange(math.prod(shape)).reshape(shape).to(dtype)}
