"""Tiny folders that are laid out as diffusers lays out a pipeline, and an adapter for them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tests.merged import eighths, pair, read_json

UNET, TEXT, VAE = "mid_block.to_q", "text_model.layers.0.q_proj", "decoder.conv"
ADAPTER = "pytorch_lora_weights.safetensors"
#: The weights of each component by their names in its file.
WEIGHTS: Mapping[str, Mapping[str, Tensor]] = {
    "text_encoder": {f"{TEXT}.weight": eighths(6, 4), "text_model.norm.weight": eighths(4)},
    "unet": {f"{UNET}.weight": eighths(8, 4), f"{UNET}.bias": eighths(8)},
    "vae": {f"{VAE}.weight": eighths(5, 3)},
}
_LIBRARIES = {"text_encoder": ("transformers", "CLIPTextModel", "model")}
_DIFFUSERS = ("diffusers", "Model", "diffusion_pytorch_model")


def file_of(component: str, variant: str = "") -> str:
    """The path of a component's weight file."""
    stem = _LIBRARIES.get(component, _DIFFUSERS)[2]
    return f"{component}/{stem}{f'.{variant}' if variant else ''}.safetensors"


def write_pipeline(folder: Path, *components: str, variants: tuple[str, ...] = ("",)) -> Path:
    """Write a pipeline of these components, or of all, each with these variants ("" is plain)."""
    index: dict[str, Any] = {"_class_name": "Pipeline", "requires_safety_checker": False}
    for name in components or tuple(WEIGHTS):
        library, model, _ = _LIBRARIES.get(name, _DIFFUSERS)
        index[name] = [library, model]
        (folder / name).mkdir(parents=True)
        for variant in variants:
            save_file(dict(WEIGHTS[name]), folder / file_of(name, variant), {"format": "pt"})
        config = {"_class_name": model} if library == "diffusers" else {"torch_dtype": "float32"}
        write_json(folder / name / "config.json", config)
    index |= {"scheduler": ["diffusers", "DDIM"], "feature_extractor": [None, None]}
    write_json(folder / "scheduler/scheduler_config.json", {"steps": 10})
    write_json(folder / "model_index.json", index)
    return folder


def split(folder: Path, component: str, *, index: str = "", shard: str = "") -> None:
    """Put each tensor of a component into a file of its own; `{}` in `shard` is its number."""
    path = folder / file_of(component)
    stem = path.name.removesuffix(".safetensors")
    path.unlink()
    shard = shard or f"{stem}-{{}}.safetensors"
    weight_map = {}
    total = len(WEIGHTS[component])
    for number, (name, tensor) in enumerate(WEIGHTS[component].items(), start=1):
        weight_map[name] = shard.format(f"{number:05}-of-{total:05}")
        save_file({name: tensor}, path.with_name(weight_map[name]), {"format": "pt"})
    fields = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    write_json(path.with_name(index or f"{stem}.safetensors.index.json"), fields)


def write_lora(path: Path, *components: str) -> Path:
    """Write an adapter of diffusers for the U-Net and the text encoder, or for some of them."""
    modules = {"unet": (UNET, 8, 4), "text_encoder": (TEXT, 6, 4)}
    tensors: dict[str, Tensor] = {}
    for name in components or ("unet", "text_encoder"):
        module, rows, columns = modules[name]
        tensors |= pair(f"{name}.{module}", rows, columns)
    save_file(tensors, path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder by their paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write_json(path: Path, fields: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


def change_json(path: Path, **fields: Any) -> None:
    write_json(path, {**read_json(path), **fields})
