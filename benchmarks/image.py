"""LoRAs on whole image models, with the keys and shapes of OneTrainer and sd-scripts.

Names are those of diffusers with `_` for each dot, so that a conversion to diffusers' spelling has
only the names to find, and the scaling to keep.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from draws import Draw

RANK: Final = 4
Module = tuple[str, int, int]
"""The path of a linear layer, with its rows and columns."""


@final
@dataclass(frozen=True)
class ImageLora:
    """A LoRA in float16 on linear layers, three tensors each: two factors and an alpha."""

    modules: tuple[Module, ...]

    def tensors(self) -> list[Draw]:
        """Both factors and the alpha of every module."""
        return [tensor for module in self.modules for tensor in _lora(*module)]


def _lora(name: str, rows: int, columns: int) -> Iterator[Draw]:
    yield Draw(f"{name}.lora_down.weight", (RANK, columns), torch.float16, 0.02)
    yield Draw(f"{name}.lora_up.weight", (rows, RANK), torch.float16, 0.02)
    yield Draw(f"{name}.alpha", (), torch.float16, 0.0, mean=RANK / 2)


def _flattened(prefix: str, modules: Iterable[Module]) -> Iterator[Module]:
    for path, rows, columns in modules:
        yield f"{prefix}{path.replace('.', '_')}", rows, columns


def _flux_transformer() -> Iterator[Module]:
    width = 3072
    yield "x_embedder", width, 64
    yield "context_embedder", width, 4096
    for embedder, columns in (("timestep", 256), ("guidance", 256), ("text", 768)):
        yield f"time_text_embed.{embedder}_embedder.linear_1", width, columns
        yield f"time_text_embed.{embedder}_embedder.linear_2", width, width
    for number in range(19):
        block = f"transformer_blocks.{number}"
        yield f"{block}.norm1.linear", 6 * width, width
        yield f"{block}.norm1_context.linear", 6 * width, width
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            yield f"{block}.attn.{projection}", width, width
        for projection in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            yield f"{block}.attn.{projection}", width, width
        for network in ("ff", "ff_context"):
            yield f"{block}.{network}.net.0.proj", 4 * width, width
            yield f"{block}.{network}.net.2", width, 4 * width
    for number in range(38):
        block = f"single_transformer_blocks.{number}"
        yield f"{block}.norm.linear", 3 * width, width
        for projection in ("to_q", "to_k", "to_v"):
            yield f"{block}.attn.{projection}", width, width
        yield f"{block}.proj_mlp", 4 * width, width
        yield f"{block}.proj_out", width, 5 * width
    yield "norm_out.linear", 2 * width, width
    yield "proj_out", 64, width


def _clip(layers: int, width: int) -> Iterator[Module]:
    for number in range(layers):
        layer = f"text_model.encoder.layers.{number}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{layer}.self_attn.{projection}", width, width
        yield f"{layer}.mlp.fc1", 4 * width, width
        yield f"{layer}.mlp.fc2", width, 4 * width


def _t5(layers: int, width: int, hidden: int) -> Iterator[Module]:
    for number in range(layers):
        layer = f"encoder.block.{number}.layer"
        for projection in ("q", "k", "v", "o"):
            yield f"{layer}.0.SelfAttention.{projection}", width, width
        for projection, rows, columns in (
            ("wi_0", hidden, width), ("wi_1", hidden, width), ("wo", width, hidden),
        ):  # fmt: skip
            yield f"{layer}.1.DenseReluDense.{projection}", rows, columns


def _transformer(path: str, width: int, depth: int) -> Iterator[Module]:
    yield f"{path}.proj_in", width, width
    for number in range(depth):
        block = f"{path}.transformer_blocks.{number}"
        for attention, context in (("attn1", width), ("attn2", 2048)):
            yield f"{block}.{attention}.to_q", width, width
            yield f"{block}.{attention}.to_k", width, context
            yield f"{block}.{attention}.to_v", width, context
            yield f"{block}.{attention}.to_out.0", width, width
        yield f"{block}.ff.net.0.proj", 8 * width, width
        yield f"{block}.ff.net.2", width, 4 * width
    yield f"{path}.proj_out", width, width


def _unet(deep: int) -> Iterator[Module]:
    """The attention of SDXL's U-Net, which has ten blocks in each deep transformer."""
    for number in range(2):
        yield from _transformer(f"down_blocks.1.attentions.{number}", 640, 2)
        yield from _transformer(f"down_blocks.2.attentions.{number}", 1280, deep)
    yield from _transformer("mid_block.attentions.0", 1280, deep)
    for number in range(3):
        yield from _transformer(f"up_blocks.0.attentions.{number}", 1280, deep)
        yield from _transformer(f"up_blocks.1.attentions.{number}", 640, 2)


FLUX: Final = tuple(_flux_transformer())
CLIP_L: Final = tuple(_flattened("lora_te1_", _clip(12, 768)))
CLIP_G: Final = tuple(_flattened("lora_te2_", _clip(32, 1280)))
_FLUX = tuple(_flattened("lora_transformer_", FLUX))
#: By name. The SDXL has twenty blocks where the model has ten, to have some 1,700 modules.
IMAGE_LORAS: Final = {
    "flux": ImageLora((*_FLUX, *CLIP_L)),
    "flux-t5": ImageLora((*_FLUX, *CLIP_L, *_flattened("lora_te2_", _t5(24, 4096, 10240)))),
    "sdxl": ImageLora((*_flattened("lora_unet_", _unet(20)), *CLIP_L, *CLIP_G)),
    "small-flux": ImageLora(_FLUX[9:10]),
    "small-sdxl": ImageLora((("lora_unet_mid_block_attentions_0_proj_in", 1280, 1280),)),
}
