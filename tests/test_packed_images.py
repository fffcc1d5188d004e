"""Image models with packed layers, as ComfyUI stores them, and adapters that name layers otherwise.

The base is a small FLUX.1 in its authors' layout, whose fused query, key and value are packed. The
adapter names weights as diffusers does, where some of the rows of one are a weight of their own.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.errors import UnsupportedError
from tests.merged import pair, update
from tests.names.key_lists import key_list
from tests.packed import write_tensors

ROOT = "model.diffusion_model."
#: The sizes of the layers are a 32nd of the real ones.
SMALL = 32
WIDTH = 3072 // SMALL
PACKED, PLAIN = ".img_attn.qkv", ".txt_attn.qkv"
FP8 = "F8_E4M3"


@dataclass(frozen=True)
class Kind:
    """How one of ComfyUI's files marks packed layers, and what a report calls them."""

    said: str
    dtype: str
    parts: dict[str, str]
    format: str = ""
    mark: str = ""


KINDS = {
    "notes in the header": Kind(
        "ComfyUI float8_e4m3fn", FP8, {"weight_scale": "F32"}, format="float8_e4m3fn"
    ),
    "4 bits": Kind(
        "ComfyUI nvfp4", "U8", {"weight_scale": FP8, "weight_scale_2": "F32"}, format="nvfp4"
    ),
    "tensors": Kind("ComfyUI", FP8, {"weight_scale": "F32", "comfy_quant": "U8"}),
    "older": Kind("ComfyUI", FP8, {"scale_weight": "F32"}, mark="scaled_fp8"),
    "without scales": Kind("F8_E4M3", FP8, {}),
}


def write_flux(path: Path, kind: Kind) -> Path:
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    layers = {}
    for name, shape in key_list("flux1").tensors.items():
        small = tuple(max(1, size // SMALL) for size in shape)
        module = f"{ROOT}{name.removesuffix('.weight')}"
        if module.endswith(PACKED):
            codes = (small[0], small[1] // 2) if kind.dtype == "U8" else small
            tensors[f"{module}.weight"] = (kind.dtype, codes)
            tensors |= {f"{module}.{part}": (dtype, (1,)) for part, dtype in kind.parts.items()}
            layers[module] = {"format": kind.format}
        else:
            tensors[ROOT + name] = ("BF16", small)
    if kind.mark:
        tensors[ROOT + kind.mark] = (FP8, (2,))
    notes = {"_quantization_metadata": json.dumps({"layers": layers})} if kind.format else {}
    return write_tensors(path, tensors, {"modelspec.title": "FLUX", **notes})


def write_adapter(path: Path, *modules: str) -> Path:
    """An adapter by diffusers; without a config, its alpha is its rank."""
    factors: dict[str, Tensor] = {}
    for seed, module in enumerate(modules):
        factors |= pair(f"transformer.{module}", WIDTH, WIDTH, seed)
    save_file(factors, path)
    return path


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rows_of_plain_layers_are_merged(tmp_path: Path, kind: Kind) -> None:
    base = write_flux(tmp_path / "flux.safetensors", kind)
    added = "transformer_blocks.0.attn.add_k_proj"
    adapter = write_adapter(tmp_path / "adapter.safetensors", added)
    report = loratools.merge(base, adapter, output=tmp_path / "merged.safetensors")
    before, after = load_file(base), load_file(tmp_path / "merged.safetensors")
    name = f"{ROOT}double_blocks.0{PLAIN}.weight"
    expected = before[name].double()
    expected[WIDTH : 2 * WIDTH] += update(load_file(adapter), 1).double()
    assert torch.equal(after[name], expected.to(torch.bfloat16))
    others = [key for key in before if key != name]
    assert [*after] == [*before]
    assert all(torch.equal(after[o].view(torch.uint8), before[o].view(torch.uint8)) for o in others)
    counts = report.to_json()["packed"]
    assert [(count["format"], count["weights"]) for count in counts] == [(kind.said, 2)]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_rows_of_packed_layers_are_refused_by_the_names_in_the_base(
    tmp_path: Path, kind: Kind
) -> None:
    base = write_flux(tmp_path / "flux.safetensors", kind)
    modules = ("1.attn.to_k", "1.attn.to_v", "0.attn.add_k_proj")
    adapter = write_adapter(
        tmp_path / "adapter.safetensors", *(f"transformer_blocks.{name}" for name in modules)
    )
    with pytest.raises(UnsupportedError) as caught:
        loratools.merge(base, adapter, output=tmp_path / "merged.safetensors")
    packed = f"{ROOT}double_blocks.1{PACKED}.weight"
    assert f"{packed} is stored packed ({kind.said}" in str(caught.value)
    # Key and value are rows of one weight.
    assert "more that the adapter changes" not in str(caught.value)
    assert not (tmp_path / "merged.safetensors").exists()


def test_a_folder_of_diffusers_has_packed_components_beside_plain_ones(tmp_path: Path) -> None:
    """Each has its own notes in a header, and declares its own method."""
    base = tmp_path / "pipeline"
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    unet, text = "down_blocks.0.attn.to_q", "text_model.encoder.layers.0.self_attn.q_proj"
    part = "unet/diffusion_pytorch_model.safetensors"
    notes = {"_quantization_metadata": json.dumps({"layers": {unet: {"format": "int8"}}})}
    codes = {f"{unet}.weight": ("I8", (8, 8)), f"{unet}.weight_scale": ("F32", (8, 1))}
    write_tensors(base / part, codes, notes)
    write_tensors(base / "text_encoder" / "model.safetensors", {f"{text}.weight": ("F32", (8, 8))})
    (base / "model_index.json").write_text(json.dumps(index))
    declared = {"quantization_config": {"quant_method": "some"}}
    for component in ("unet", "text_encoder"):
        (base / component / "config.json").write_text(json.dumps(declared))
    save_file(pair(f"text_encoder.{text}", 8, 8), tmp_path / "adapter.safetensors")
    report = loratools.merge(base, tmp_path / "adapter.safetensors", output=tmp_path / "merged")
    assert report.to_json()["packed"] == [{"format": "ComfyUI int8", "weights": 1, "tensors": 2}]
    (note,) = (note for note in report.notes if "declares" in note)
    assert note.startswith(f"{base}/text_encoder: ")
    assert (tmp_path / "merged" / part).read_bytes() == (base / part).read_bytes()
