"""Single files of whole image models, and adapters for them: real names and shapes, drawn values.

The names of the tensors are those of the key lists of the tests. A scale divides the widths of
layers, so that files fit a disk; the number of tensors stays as it is.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from draws import STORED_AS, Draw, size_in_file, write_safetensors
from image import CLIP_G, CLIP_L, FLUX, Module
from tools import ROOT

sys.path.insert(0, str(ROOT))
from tests.names.key_lists import key_list

RANK: Final = 16
Shape = tuple[int, ...]
#: FLUX.1 has this many blocks; of blocks that are alike, a key list has only the first two.
BLOCKS: Final = {"double_blocks": 19, "single_blocks": 38}
#: Sizes below this are no widths, but kernels, channels of an image and dimensions of a head.
LEAST_WIDTH: Final = 320
VOCABULARY: Final = 49408
_BLOCK = re.compile(r"(\w+_blocks)\.(\d+)\.(.*)")


def scaled(shape: Shape, scale: int) -> Shape:
    """A shape with the widths in it divided by the scale."""
    return tuple(
        size // scale if size >= LEAST_WIDTH and size != VOCABULARY else size for size in shape
    )


@final
@dataclass(frozen=True)
class Checkpoint:
    """A single file: the key list of each model in it, by the root of its names."""

    models: dict[str, str]
    dtype: torch.dtype

    def shapes(self, scale: int) -> dict[str, Shape]:
        """The shapes of all tensors by name; those of a VAE are not scaled."""
        return {
            f"{root}{name}": shape if model.startswith("vae") else scaled(shape, scale)
            for root, model in self.models.items()
            for name, shape in _tensors(model)
        }

    def write(self, path: Path, scale: int) -> None:
        """Write the file with values like those of a model."""
        tensors = [Draw(n, s, self.dtype, std=0.02) for n, s in self.shapes(scale).items()]
        write_safetensors(path, tensors, path.stem)

    def write_sparse(self, path: Path) -> None:
        """Write the file with its real header, and holes for data: it takes no room on the disk."""
        offset = 0
        header: dict[str, object] = {}
        for name, shape in self.shapes(1).items():
            size = size_in_file(Draw(name, shape, self.dtype, std=0))
            offsets = [offset, offset := offset + size]
            header[name] = {
                "dtype": STORED_AS[self.dtype], "shape": shape, "data_offsets": offsets,
            }  # fmt: skip
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)


@final
@dataclass(frozen=True)
class Adapter:
    """A LoRA on linear layers of a checkpoint, in kohya's or in diffusers' spelling."""

    modules: tuple[Module, ...]
    is_kohya: bool

    def write(self, path: Path, scale: int) -> None:
        """Write the file, in float16."""
        tensors = [draw for module in self.modules for draw in self._lora(scale, *module)]
        write_safetensors(path, tensors, path.stem)

    def _lora(self, scale: int, name: str, rows: int, columns: int) -> Iterator[Draw]:
        down, up = ("lora_down", "lora_up") if self.is_kohya else ("lora_A", "lora_B")
        rows, columns = scaled((rows, columns), scale)
        spread = 1 / math.sqrt(columns)
        yield Draw(f"{name}.{down}.weight", (RANK, columns), torch.float16, spread)
        yield Draw(f"{name}.{up}.weight", (rows, RANK), torch.float16, 0.01)
        if self.is_kohya:
            yield Draw(f"{name}.alpha", (), torch.float16, 0.0, mean=RANK / 2)


def _tensors(model: str) -> Iterator[tuple[str, Shape]]:
    """The tensors of a model; FLUX.1's with all of its blocks."""
    for name, shape in key_list(model).tensors.items():
        found = _BLOCK.fullmatch(name) if model == "flux1" else None
        if found is None or found[2] == "0":
            yield name, shape
        else:
            for number in range(1, BLOCKS[found[1]]):
                yield f"{found[1]}.{number}.{found[3]}", shape


def _kohya(model: str, pattern: str) -> Iterator[Module]:
    """The linear layers whose names match, as kohya's programs call them."""
    for name, shape in _tensors(model):
        module = name.removesuffix(".weight")
        if module != name and len(shape) == 2 and re.search(pattern, module):
            yield f"lora_unet_{module.replace('.', '_')}", *shape


def _diffusers(modules: Sequence[Module]) -> Iterator[Module]:
    for path, rows, columns in modules:
        yield f"transformer.{path}", rows, columns


CHECKPOINTS: Final = {
    "sdxl": Checkpoint(
        {
            "model.diffusion_model.": "sdxl",
            "conditioner.embedders.0.transformer.text_model.": "clip_l",
            "conditioner.embedders.1.model.": "openclip_g",
            "first_stage_model.": "vae_sd",
        },
        torch.float16,
    ),
    "flux": Checkpoint({"": "flux1"}, torch.bfloat16),
}
#: The adapters of each checkpoint: all linear layers of SDXL's attentions and text encoders, and
#: the blocks of FLUX.1 by their own names, which are of fused layers, and by diffusers'.
ADAPTERS: Final = {
    "sdxl": {
        "kohya": Adapter((*_kohya("sdxl", r"transformer_blocks|proj_"), *CLIP_L, *CLIP_G), True),
    },
    "flux": {
        "kohya": Adapter(tuple(_kohya("flux1", "_blocks")), True),
        "diffusers": Adapter(tuple(_diffusers(FLUX)), False),
    },
}
