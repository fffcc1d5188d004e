"""A single file's tensors by their names in a folder of diffusers, or by their own."""

from collections.abc import Mapping

import pytest

from loratools.names.as_folder import Origin, as_folder
from tests.names.key_lists import MODELS, key_list

ROOT = "model.diffusion_model."
FLUX: Mapping[str, tuple[int, ...]] = {
    f"{ROOT}double_blocks.0.img_attn.qkv.weight": (12, 4),
    f"{ROOT}double_blocks.0.img_attn.proj.weight": (4, 4),
    f"{ROOT}final_layer.adaLN_modulation.1.weight": (8, 4),
}
LUMINA: Mapping[str, tuple[int, ...]] = {
    "layers.0.attention.qkv.weight": (12, 4),
    "layers.0.attention.out.weight": (4, 4),
    "cap_embedder.0.weight": (4,),
}


def test_parts_of_fused_weights_are_rows_and_halves_may_be_exchanged() -> None:
    qkv, proj, last = FLUX
    attn = "transformer.transformer_blocks.0.attn"
    assert as_folder(FLUX) == {
        f"{attn}.to_q.weight": Origin(qkv, ((0, 4),)),
        f"{attn}.to_k.weight": Origin(qkv, ((4, 8),)),
        f"{attn}.to_v.weight": Origin(qkv, ((8, 12),)),
        f"{attn}.to_out.0.weight": Origin(proj),
        "transformer.norm_out.linear.weight": Origin(last, ((4, 8), (0, 4))),
    }


def test_a_model_that_is_not_known_in_diffusers_keeps_its_name() -> None:
    vae = "first_stage_model.decoder.conv_in.weight"
    found = as_folder({**FLUX, vae: (4, 4, 3, 3)})
    assert found is not None
    assert found[vae] == Origin(vae)


def test_rows_that_are_no_whole_number_keep_the_name_of_their_tensor() -> None:
    qkv = next(iter(FLUX))
    found = as_folder({**FLUX, qkv: (13, 4)})
    assert found is not None
    assert found[qkv] == Origin(qkv)


@pytest.mark.parametrize(
    "shapes",
    [
        LUMINA,
        {"model.layers.0.self_attn.q_proj.weight": (4, 4)},
        {"transformer_blocks.0.attn.to_q.weight": (4, 4), "x_embedder.weight": (4, 4)},
        {"cond_stage_model.transformer.text_model.final_layer_norm.weight": (4,)},
    ],
)
def test_what_is_no_image_model_or_leaves_rows_open_has_no_names_in_a_folder(
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """The rows of grouped queries are not told by names; diffusers' own file is no single file."""
    assert as_folder(shapes) is None


@pytest.mark.parametrize("model", MODELS)
def test_every_row_of_a_known_model_belongs_to_one_tensor(model: str) -> None:
    shapes = key_list(model).tensors
    rows: dict[str, list[int]] = {name: [] for name in shapes}
    for origin in (as_folder(shapes) or {name: Origin(name) for name in shapes}).values():
        count = shapes[origin.stored][0] if shapes[origin.stored] else 1
        for first, last in origin.runs or ((0, count),):
            rows[origin.stored] += range(first, last)
    for name, found in rows.items():
        assert sorted(found) == list(range(shapes[name][0] if shapes[name] else 1))


def test_of_the_known_models_only_some_have_no_names_in_a_folder() -> None:
    """A text encoder or an autoencoder alone, and the one with grouped queries."""
    without = {model for model in MODELS if as_folder(key_list(model).tensors) is None}
    assert without == {
        "clip_l", "lumina2", "openclip_g", "openclip_h", "t5_xxl", "vae_flux1", "vae_sd",
    }  # fmt: skip
