"""Names in another format: those that say the same there, and those that are refused, with why."""

import re

import pytest

from loratools.names.components import Style
from loratools.names.translated import translated

CLIP = "text_model.encoder.layers.3.self_attn.q_proj"
T5 = "encoder.block.3.layer.0.SelfAttention.q"
SD1 = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
SDXL = "up_blocks.0.attentions.0.transformer_blocks.9.attn1.to_q"
SGM = "input_blocks.4.1.transformer_blocks.1.attn1.to_q"
FLUX = "double_blocks.0.img_attn.qkv"
FLUX_ALONE = "single_blocks.3.linear1"


def flat(path: str) -> str:
    return path.replace(".", "_")


def weights(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in names)


#: An adapter's names in two styles, which are each other's translation.
BOTH_WAYS: list[tuple[Style, tuple[str, ...], Style, tuple[str, ...]]] = [
    ("modules", ("model.layers.0.mlp.up_proj",), "language", ("model.layers.0.mlp.up_proj",)),
    ("modules", ("lm_head", "model.embed_tokens"), "language", ("lm_head", "model.embed_tokens")),
    ("diffusers", (f"unet.{SD1}",), "flattened", (f"lora_unet_{flat(SD1)}",)),
    (
        "diffusers",
        (f"unet.{SD1}", f"text_encoder.{CLIP}"),
        "flattened",
        (f"lora_unet_{flat(SD1)}", f"lora_te_{flat(CLIP)}"),
    ),
    (
        "diffusers",
        (f"unet.{SDXL}", f"text_encoder.{CLIP}"),
        "flattened",
        (f"lora_unet_{flat(SDXL)}", f"lora_te1_{flat(CLIP)}"),
    ),
    (
        "diffusers",
        (f"text_encoder.{CLIP}", f"text_encoder_2.{CLIP}"),
        "flattened",
        (f"lora_te1_{flat(CLIP)}", f"lora_te2_{flat(CLIP)}"),
    ),
    (
        "comfyui",
        (f"diffusion_model.{FLUX}", f"diffusion_model.{FLUX_ALONE}"),
        "flattened",
        (f"lora_unet_{flat(FLUX)}", f"lora_unet_{flat(FLUX_ALONE)}"),
    ),
    (
        "comfyui",
        (
            f"diffusion_model.{SGM}",
            f"text_encoders.clip_l.transformer.{CLIP}",
            f"text_encoders.clip_g.transformer.{CLIP}",
        ),
        "flattened",
        (f"lora_unet_{flat(SGM)}", f"lora_te1_{flat(CLIP)}", f"lora_te2_{flat(CLIP)}"),
    ),
    (
        "comfyui",
        (f"diffusion_model.{FLUX_ALONE}", f"text_encoders.t5xxl.transformer.{T5}"),
        "flattened",
        (f"lora_unet_{flat(FLUX_ALONE)}", f"lora_te3_{flat(T5)}"),
    ),
    (
        "comfyui",
        ("diffusion_model.blocks.0.cross_attn.k_img",),
        "flattened",
        ("lora_unet_blocks_0_cross_attn_k_img",),
    ),
    (
        "comfyui",
        ("diffusion_model.transformer_blocks.0.img_mod.1",),
        "diffusers",
        ("transformer.transformer_blocks.0.img_mod.1",),
    ),
    (
        "flattened",
        ("lora_unet_transformer_blocks_0_img_mlp_net_0_proj",),
        "diffusers",
        ("transformer.transformer_blocks.0.img_mlp.net.0.proj",),
    ),
    ("modules", (SD1,), "diffusers", (f"unet.{SD1}",)),
    ("modules", (SD1,), "flattened", (f"lora_unet_{flat(SD1)}",)),
    ("modules", (FLUX,), "comfyui", (f"diffusion_model.{FLUX}",)),
]


@pytest.mark.parametrize(("style", "names", "other", "theirs"), BOTH_WAYS)
def test_names_that_say_the_same_are_translated_both_ways(
    style: Style, names: tuple[str, ...], other: Style, theirs: tuple[str, ...]
) -> None:
    there = translated(weights(*names), style, other)
    assert there.refused == {}
    assert tuple(there.names.values()) == weights(*theirs)
    back = translated(weights(*theirs), other, style)
    assert back.refused == {}
    assert tuple(back.names.values()) == weights(*names)


#: Names, and a part of the reason why each has no name in another style.
REFUSED: list[tuple[Style, tuple[str, ...], Style, str]] = [
    ("modules", ("model.layers.0.mlp.up_proj",), "flattened", "no matrix of an image model"),
    ("modules", (CLIP,), "diffusers", "nothing says in which"),
    ("modules", (SD1,), "language", "has language models"),
    ("modules", ("transformer.h.0.attn.c_attn",), "language", "not known that MLX and PEFT"),
    ("modules", ("model.layers.0.mlp.experts.3.up_proj",), "language", "not known that MLX and"),
    ("language", ("model.h.0.attn.c_attn",), "modules", "not known that MLX and PEFT"),
    ("language", ("model.layers.0.mlp.switch_mlp.up_proj",), "modules", "not known that MLX and"),
    ("modules", ("time_embedding.linear_1",), "diffusers", "may be unet or transformer"),
    ("modules", (FLUX_ALONE, SD1), "comfyui", "no known model has all of these"),
    ("flattened", tuple(f"lora_unet_{flat(p)}" for p in (FLUX_ALONE, SD1)), "comfyui", "no known"),
    ("apart", (SGM,), "comfyui", "in no part of a pipeline"),
    ("diffusers", (f"unet.{SD1}",), "language", "has language models"),
    ("diffusers", (f"unet.{SD1}", f"text_encoder.{CLIP}"), "modules", "one of 2 models"),
    (
        "diffusers",
        ("transformer.transformer_blocks.0.ff_context.net.2",),
        "flattened",
        r"diffusers' names of .*, for which kohya's format has the original names",
    ),
    ("diffusers", (f"unet.{SD1}",), "comfyui", "for which ComfyUI has the original names"),
    ("diffusers", (f"text_encoder.{CLIP}",), "flattened", "SD 1, SD 2 or SDXL"),
    ("diffusers", (f"text_encoder.{CLIP}",), "comfyui", "SD 1, SD 2 or SDXL"),
    ("flattened", (f"lora_te_{flat(CLIP)}",), "comfyui", "SD 1 or SD 2, .* names do not tell"),
    ("diffusers", ("transformer.unheard_of.0.to_q",), "flattened", "of no known model"),
    ("diffusers", ("prior.layers.0.to_q",), "flattened", "in no part of a pipeline"),
    ("flattened", (f"lora_unet_{flat(SGM)}",), "diffusers", "for which diffusers has diffusers'"),
    (
        "flattened",
        (f"lora_unet_{flat(FLUX_ALONE)}",),
        "diffusers",
        "the map between these is not there yet",
    ),
    ("flattened", (f"lora_te3_{flat(T5)}",), "diffusers", "text_encoder_2 of Flux"),
    ("flattened", ("lora_unet_unheard_of_0_to_q",), "comfyui", "see --base"),
    ("flattened", ("lora_te_layers_0_mlp_up_proj",), "comfyui", "in no part of a pipeline"),
    ("flattened", (f"lora_unet_{flat(SD1)}",), "comfyui", "for which ComfyUI has the original"),
    (
        "comfyui",
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q",),
        "flattened",
        "the original names of Stable Diffusion",
    ),
    ("comfyui", ("diffusion_model.double_blocks.0.img_mod.lin",), "diffusers", "original names"),
]


@pytest.mark.parametrize(("style", "names", "other", "reason"), REFUSED)
def test_names_that_would_have_to_be_guessed_are_refused_with_the_reason(
    style: Style, names: tuple[str, ...], other: Style, reason: str
) -> None:
    found = translated(weights(*names), style, other)
    assert found.names == {}
    assert [*found.refused] == [*weights(*names)]
    assert all(re.search(reason, text) for text in found.refused.values()), found.refused


def test_a_base_settles_a_name_of_no_known_model() -> None:
    name = "lora_unet_unheard_of_0_to_q.weight"
    base = ("model.diffusion_model.unheard_of.0.to_q.weight", "model.diffusion_model.x.weight")
    found = translated([name], "flattened", "comfyui", base)
    assert found.names == {name: "diffusion_model.unheard_of.0.to_q.weight"}


def test_a_base_in_which_a_name_may_be_two_modules_does_not_settle_it() -> None:
    base = ("a_b.c.weight", "a.b_c.weight")
    found = translated(["lora_unet_a_b_c.weight"], "flattened", "comfyui", base)
    assert "may be a.b_c or a_b.c" in found.refused["lora_unet_a_b_c.weight"]


def test_a_base_settles_which_of_several_models_a_name_is_of() -> None:
    """Names of Qwen-Image's attention are those of Flux and SD 3 in diffusers, too."""
    name = "transformer.transformer_blocks.0.attn.add_q_proj.weight"
    alone = translated([name], "diffusers", "flattened")
    assert "--base may show that it is another model" in alone.refused[name]
    base = ("transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.attn.to_q.weight")
    found = translated([name], "diffusers", "flattened", base)
    assert found.names == {name: "lora_unet_transformer_blocks_0_attn_add_q_proj.weight"}


@pytest.mark.parametrize(
    ("base", "prefix"),
    [
        ("conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_fc.weight", "lora_te1_"),
        ("up_blocks.0.attentions.0.proj_in.weight", "lora_te1_"),
        ("model.diffusion_model.output_blocks.11.1.proj_in.weight", "lora_te_"),
        ("unet.down_blocks.0.attentions.0.proj_in.weight", "lora_te_"),
    ],
)
def test_a_base_settles_whether_it_has_one_text_encoder_or_two(base: str, prefix: str) -> None:
    name = f"text_encoder.{CLIP}.weight"
    found = translated([name], "diffusers", "flattened", (base,))
    assert found.names == {name: f"{prefix}{flat(CLIP)}.weight"}


def test_t5_is_the_text_encoder_that_it_is_in_its_pipeline() -> None:
    flux = translated(weights(f"lora_te2_{flat(T5)}"), "flattened", "diffusers")
    assert [*flux.names.values()] == [f"text_encoder_2.{T5}.weight"]
    sd3 = weights(f"lora_te3_{flat(T5)}", f"lora_te2_{flat(CLIP)}")
    found = translated(sd3, "flattened", "diffusers")
    assert [*found.names.values()] == [*weights(f"text_encoder_3.{T5}", f"text_encoder_2.{CLIP}")]


def test_names_with_dots_in_kohyas_format_are_those_of_one_model() -> None:
    name = "transformer_blocks.0.img_mod.1.weight"
    assert translated([name], "flattened", "diffusers").names == {name: f"transformer.{name}"}
    with_prefix = f"transformer.{name}"
    found = translated([with_prefix], "flattened", "comfyui")
    assert found.names == {with_prefix: f"diffusion_model.{name}"}


def test_other_names_of_a_file_settle_what_one_of_them_leaves_open() -> None:
    """HunyuanVideo has `img_attn_qkv` where Flux has `img_attn.qkv`; ComfyUI has the latter."""
    both = weights(
        "lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_double_blocks_0_img_mlp_fc1"
    )
    found = translated(both, "flattened", "modules")
    assert found.names[both[0]] == "double_blocks.0.img_attn_qkv.weight"
    alone = translated(both[:1], "flattened", "modules")
    assert "may be double_blocks.0.img_attn.qkv or" in alone.refused[both[0]]
    assert translated(both[:1], "flattened", "comfyui").refused == {}
