#!/usr/bin/env python
"""Make the fixtures in kohya's format: seeded values in the layout of real files.

    python scripts/make_kohya_fixtures.py [FOLDER]

The trainer is not on the package index, so its layout is made with the safetensors library: names,
shapes of factors, dtypes and metadata entries are those of published files, sizes are scaled down.
Hashes are computed here by the published rule, without loratools. Needs no network, and writes the
same bytes in every run.
"""

import argparse
import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, final

import safetensors.torch
import torch
from torch import Tensor

FIXTURES: Final = Path(__file__).resolve().parent.parent / "fixtures" / "kohya"

#: Each module's name, and the shape of its weight: (out, in, kernel...).
Shapes = Mapping[str, tuple[int, ...]]

CLIP: Final[Shapes] = {
    f"text_model_encoder_layers_{layer}_{name}": shape
    for layer in (0, 1)
    for name, shape in {
        "mlp_fc1": (48, 24),
        "mlp_fc2": (24, 48),
        "self_attn_q_proj": (24, 24),
        "self_attn_v_proj": (24, 24),
    }.items()
}
TRANSFORMER: Final[Shapes] = {
    "transformer_blocks_0_attn1_to_q": (32, 32),
    "transformer_blocks_0_attn1_to_out_0": (32, 32),
    "transformer_blocks_0_attn2_to_k": (32, 24),
    "transformer_blocks_0_ff_net_0_proj": (64, 32),
    "transformer_blocks_0_ff_net_2": (32, 64),
}
SD15: Final[Shapes] = {
    **{f"lora_te_{name}": shape for name, shape in CLIP.items()},
    **{
        f"lora_unet_down_blocks_0_attentions_{number}_{name}": shape
        for number in (0, 1)
        for name, shape in {
            **TRANSFORMER,
            "proj_in": (32, 32, 1, 1),
            "proj_out": (32, 32, 1, 1),
        }.items()
    },
    "lora_unet_down_blocks_0_downsamplers_0_conv": (32, 32, 3, 3),
    "lora_unet_down_blocks_0_resnets_0_conv1": (32, 32, 3, 3),
    "lora_unet_down_blocks_0_resnets_0_time_emb_proj": (32, 48),
    "lora_unet_down_blocks_0_resnets_1_conv1": (32, 32, 3, 3),
}
SDXL: Final[Shapes] = {
    **{f"lora_te1_{name}": shape for name, shape in CLIP.items()},
    **{f"lora_te2_{name}": (shape[0] + 8, shape[1] + 8) for name, shape in CLIP.items()},
    **{
        f"lora_unet_{block}_{name}": shape
        for block in ("input_blocks_4_1", "input_blocks_5_1", "middle_block_1")
        for name, shape in {**TRANSFORMER, "proj_in": (32, 32), "proj_out": (32, 32)}.items()
    },
}
COMMON: Final = {
    "ss_network_module": "networks.lora",
    "ss_learning_rate": "0.0001",
    "ss_epoch": "10",
    "ss_steps": "1200",
    "ss_mixed_precision": "fp16",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit",
    "ss_seed": "42",
    "ss_v2": "False",
    "ss_tag_frequency": json.dumps({"10_style": {"outdoors": 12, "été": 3, "night": 1}}),
    "ss_dataset_dirs": json.dumps({"10_style": {"n_repeats": 10, "img_count": 12}}),
}


@final
@dataclass(frozen=True)
class Recipe:
    """One file to be made: its modules, the ranks and alphas of linear layers and convolutions.

    If `ranks` has more than one number, modules take them in turn, as after a dynamic resize.
    """

    name: str
    shows: str
    shapes: Shapes
    dtype: torch.dtype
    ranks: tuple[int, ...]
    alpha: float
    conv_rank: int
    conv_alpha: float
    seed: int
    metadata: Mapping[str, str]


RECIPES: Final = (
    Recipe(
        name="sd15-locon",
        shows="LoCon for Stable Diffusion 1.5: text encoder, linear layers, 1x1 and 3x3 kernels",
        shapes=SD15,
        dtype=torch.float16,
        ranks=(4,),
        alpha=2,
        conv_rank=2,
        conv_alpha=1,
        seed=1,
        metadata={
            "ss_sd_model_name": "v1-5-pruned-emaonly.safetensors",
            "ss_base_model_version": "sd_v1",
            "ss_network_dim": "4",
            "ss_network_alpha": "2.0",
            "ss_network_args": json.dumps({"conv_dim": "2", "conv_alpha": "1"}),
            "ss_output_name": "style",
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": "stable-diffusion-v1/lora",
            "modelspec.title": "style",
        },
    ),
    Recipe(
        name="sdxl-dynamic",
        shows="LoRA for SDXL: two text encoders, linear layers of several ranks, bfloat16 alphas",
        shapes=SDXL,
        dtype=torch.bfloat16,
        ranks=(4, 2, 3),
        alpha=2.5,
        conv_rank=2,
        conv_alpha=1,
        seed=2,
        metadata={
            "ss_sd_model_name": "sd_xl_base_1.0.safetensors",
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_network_dim": "Dynamic",
            "ss_network_alpha": "2.5",
            "ss_training_comment": "Dynamic resize with sv_fro: 0.9 from 8; ",
        },
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FIXTURES)
    folder: Path = parser.parse_args().folder
    for recipe in RECIPES:
        shutil.rmtree(folder / recipe.name, ignore_errors=True)
        make(recipe, folder / recipe.name)


def make(recipe: Recipe, folder: Path) -> None:
    """Write one file, and beside it what a correct reader finds in it."""
    folder.mkdir(parents=True)
    tensors = trained(recipe)
    metadata = {**COMMON, **recipe.metadata}
    metadata |= published_hashes(tensors, metadata)
    path = folder / f"{recipe.name}.safetensors"
    path.write_bytes(serialised(tensors, metadata))
    expected = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "tensors": len(tensors),
        "delta_norms": {name: delta_norm(tensors, name) for name in sorted(recipe.shapes)},
    }
    source = {
        "made_by": "scripts/make_kohya_fixtures.py",
        "versions": {name: version(name) for name in ("safetensors", "torch")},
        "seed": recipe.seed,
        "shows": recipe.shows,
    }
    for name, value in (("expected.json", expected), ("SOURCE.json", source)):
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def trained(recipe: Recipe) -> dict[str, Tensor]:
    """Normally distributed factors, about as large as training leaves them."""
    random = torch.Generator().manual_seed(recipe.seed)
    tensors = {}
    for number, (name, (rows, columns, *kernel)) in enumerate(recipe.shapes.items()):
        is_larger = any(size > 1 for size in kernel)
        rank = recipe.conv_rank if is_larger else recipe.ranks[number % len(recipe.ranks)]
        alpha = recipe.conv_alpha if is_larger else recipe.alpha
        down = torch.randn(rank, columns, *kernel, generator=random) / columns**0.5
        up = torch.randn(rows, rank, *[1] * len(kernel), generator=random) / 50
        tensors[f"{name}.alpha"] = torch.tensor(alpha).to(recipe.dtype)
        tensors[f"{name}.lora_down.weight"] = down.to(recipe.dtype)
        tensors[f"{name}.lora_up.weight"] = up.to(recipe.dtype)
    return tensors


def delta_norm(tensors: Mapping[str, Tensor], name: str) -> float:
    """The Frobenius norm of alpha / rank * up @ down, in float64."""
    down, up = (tensors[f"{name}.lora_{part}.weight"].double() for part in ("down", "up"))
    scale = tensors[f"{name}.alpha"].double() / down.shape[0]
    return float(torch.linalg.vector_norm(scale * up.flatten(1) @ down.flatten(1)))


def published_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The two hashes that sd-scripts stores.

    One is of all data; the legacy one is of 64 KiB from 1 MiB on, in a file whose metadata has the
    `ss_` entries only.
    """
    training = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    file = io.BytesIO(safetensors.torch.save(dict(tensors), training))
    file.seek(8 + int.from_bytes(file.read(8), "little"))
    model_hash = hashlib.sha256(file.read()).hexdigest()
    file.seek(0x100000)
    legacy_hash = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    return {"sshs_model_hash": model_hash, "sshs_legacy_hash": legacy_hash}


def serialised(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file as the library writes it, with sorted metadata, whose order there is random."""
    data = safetensors.torch.save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return data[:8] + text.ljust(end - 8) + data[end:]


if __name__ == "__main__":
    main()
