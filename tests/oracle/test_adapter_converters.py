"""Diffusers' converters of adapters agree with our rules, but for the faults on the page on names.

An adapter for every module of a model has factors of numbers that tell where they come from. Its
update is right if the down factor arrives whole, and the up factor as the rows of the weight do.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from loratools.names.patterns import depths_of
from loratools.names.rules import parse_rules
from tests.names.key_lists import key_list
from tests.oracles import oracle

oracle("diffusers")

from diffusers.loaders import lora_conversion_utils  # noqa: E402

pytestmark = pytest.mark.oracle

Tensors = dict[str, Tensor]
RANK = 6


def comfyui(module: str) -> str:
    return f"diffusion_model.{module}.lora_A.weight"


def kohya(module: str) -> str:
    return f"lora_unet_{module.replace('.', '_')}.lora_down.weight"


def up(down: str) -> str:
    return down.replace("lora_A", "lora_B").replace("lora_down", "lora_up")


def adapter(model: str, spelled: Callable[[str], str]) -> Tensors:
    """Factors for every module of a model with a matrix, each entry of its own value."""
    found: Tensors = {}
    for number, (name, shape) in enumerate(key_list(model).tensors.items()):
        module, _, parameter = name.rpartition(".")
        if parameter == "weight" and len(shape) > 1:
            down = spelled(module)
            start = number * 1e7
            found[down] = torch.arange(RANK * 2).reshape(RANK, 2).double() + start
            found[up(down)] = torch.arange(shape[0] * RANK).reshape(-1, RANK).double() + start
            if "lora_down" in down:
                found[down.replace("lora_down.weight", "alpha")] = torch.tensor(float(RANK))
    return found


def faults(model: str, spelled: Callable[[str], str], converter: str) -> dict[str, set[str]]:
    """The modules that a converter of diffusers loses or changes, by what happens to them."""
    stored = adapter(model, spelled)
    keys = key_list(model)
    _, rules = parse_rules(keys.rules_text())
    depths = depths_of(keys.tensors)
    converted: Tensors = getattr(lora_conversion_utils, converter)(dict(stored))
    found: dict[str, set[str]] = {}
    for name in keys.tensors:
        down = spelled(name.removesuffix(".weight"))
        for part in rules.parts(name, depths) or () if down in stored else ():
            for what in _faults_of(part, stored[down], stored[up(down)], converted):
                found.setdefault(what, set()).add(re.sub(r"\d+", "#", name.removesuffix(".weight")))
    return found


def _faults_of(part: Any, down: Tensor, whole: Tensor, converted: Tensors) -> list[str]:
    name = part.diffusers.removesuffix("weight") + "lora_A.weight"
    if f"transformer.{name}" not in converted:
        return ["no component" if name in converted else "lost"]
    own_up = converted[up(f"transformer.{name}")]
    rows = part.rows.resolved(len(whole), len(own_up)) or ()
    is_up = bool(rows) and torch.equal(own_up, torch.cat([whole[a:b] for a, b in rows]))
    is_down = torch.equal(converted[f"transformer.{name}"], down)
    return [*([] if is_down else ["down"]), *([] if is_up else ["up"])]


@pytest.mark.parametrize(
    ("model", "spelled", "converter", "expected"),
    [
        ("anima", comfyui, "_convert_non_diffusers_anima_lora_to_diffusers", {}),
        ("hidream_i1", comfyui, "_convert_non_diffusers_hidream_lora_to_diffusers", {}),
        ("krea2", comfyui, "_convert_non_diffusers_krea2_lora_to_diffusers", {}),
        ("ltx2", comfyui, "_convert_non_diffusers_ltx2_lora_to_diffusers", {}),
        ("qwen_image", comfyui, "_convert_non_diffusers_qwen_lora_to_diffusers", {}),
        (
            "flux1",
            kohya,
            "_convert_kohya_flux_lora_to_diffusers",
            {
                "no component": {
                    "img_in",
                    "txt_in",
                    *(
                        f"{name}_in.{layer}_layer"
                        for name in ("time", "vector", "guidance")
                        for layer in ("in", "out")
                    ),
                    "final_layer.adaLN_modulation.#",
                    "final_layer.linear",
                }
            },
        ),
        (
            "flux2",
            comfyui,
            "_convert_non_diffusers_flux2_lora_to_diffusers",
            {"up": {"final_layer.adaLN_modulation.#"}},
        ),
        (
            "flux2",
            kohya,
            "_convert_kohya_flux2_lora_to_diffusers",
            {
                "lost": {
                    "guidance_in.in_layer",
                    "guidance_in.out_layer",
                    "double_stream_modulation_img.lin",
                    "double_stream_modulation_txt.lin",
                    "single_stream_modulation.lin",
                    "final_layer.adaLN_modulation.#",
                }
            },
        ),
        (
            "hunyuan_video",
            comfyui,
            "_convert_hunyuan_video_lora_to_diffusers",
            {
                "down": {
                    "final_layer.adaLN_modulation.#",
                    "txt_in.individual_token_refiner.blocks.#.self_attn_qkv",
                }
            },
        ),
        (
            "ltx_video",
            comfyui,
            "_convert_non_diffusers_ltxv_lora_to_diffusers",
            {
                "lost": {
                    "patchify_proj",
                    "adaln_single.emb.timestep_embedder.linear_#",
                    "adaln_single.linear",
                }
            },
        ),
        (
            "z_image",
            comfyui,
            "_convert_non_diffusers_z_image_lora_to_diffusers",
            {
                "lost": {
                    "x_embedder",
                    *(
                        f"{blocks}.#.attention.{layer}"
                        for blocks in ("layers", "noise_refiner", "context_refiner")
                        for layer in ("qkv", "out")
                    ),
                    "final_layer.adaLN_modulation.#",
                    "final_layer.linear",
                }
            },
        ),
        (
            "z_image",
            kohya,
            "_convert_non_diffusers_z_image_lora_to_diffusers",
            {"lost": {"x_embedder", "final_layer.adaLN_modulation.#", "final_layer.linear"}},
        ),
    ],
)
def test_adapters_are_converted_as_checkpoints_but_for_known_faults(
    model: str, spelled: Callable[[str], str], converter: str, expected: dict[str, set[str]]
) -> None:
    assert faults(model, spelled, converter) == expected


def test_wan_adapters_with_other_modules_than_blocks_are_refused() -> None:
    stored = adapter("wan21_t2v", comfyui)
    with pytest.raises(ValueError, match="should be empty"):
        lora_conversion_utils._convert_non_diffusers_wan_lora_to_diffusers(stored)


def test_both_layers_of_the_embedding_of_sizes_get_one_name() -> None:
    stored = {
        f"lora_unet_add_embedding_linear_{number}.{name}": tensor
        for number in (1, 2)
        for name, tensor in {
            "lora_down.weight": torch.ones(4, 8),
            "lora_up.weight": torch.ones(8, 4),
            "alpha": torch.tensor(4.0),
        }.items()
    }
    converted, _ = lora_conversion_utils._convert_non_diffusers_lora_to_diffusers(stored)
    assert len(converted) == 2  # the factors of one
