"""Names of targets in each format, and the model of a pipeline that they mean."""

import pytest

from loratools.names.components import Style, named

CLIP = "text_model.encoder.layers.3.self_attn.q_proj"
T5 = "encoder.block.3.layer.0.SelfAttention.q"
UNET = "mid_block.attentions.0.proj_in"


@pytest.mark.parametrize(
    ("style", "prefix", "path", "part"),
    [
        ("flattened", "lora_unet_", UNET, "denoiser"),
        ("flattened", "lora_unet__", "blocks.0.cross_attn.k", "denoiser"),
        ("flattened", "lora_transformer_", "transformer_blocks.0.attn.to_q", "denoiser"),
        ("flattened", "lycoris_", UNET, "denoiser"),
        ("flattened", "lycoris_", CLIP, "clip"),
        ("flattened", "lora_te_", CLIP, "clip"),
        ("flattened", "lora_te1_", CLIP, "clip"),
        ("flattened", "lora_te2_", CLIP, "clip_g"),
        ("flattened", "lora_te2_", T5, "t5"),
        ("flattened", "lora_te3_", T5, "t5"),
        ("flattened", "lora_te_", "layers.0.self_attn.q_proj", "other"),
        ("flattened", "lora_prior_unet_", UNET, "other"),
        ("diffusers", "unet.", UNET, "denoiser"),
        ("diffusers", "transformer.", "transformer_blocks.0.attn.to_q", "denoiser"),
        ("diffusers", "text_encoder.", CLIP, "clip"),
        ("diffusers", "text_encoder_2.", CLIP, "clip_g"),
        ("diffusers", "text_encoder_2.", T5, "t5"),
        ("diffusers", "prior.", UNET, "other"),
        ("comfyui", "diffusion_model.", "double_blocks.0.img_attn.qkv", "denoiser"),
        ("comfyui", "text_encoders.clip_l.transformer.", CLIP, "clip"),
        ("comfyui", "text_encoders.clip_g.transformer.", CLIP, "clip_g"),
        ("comfyui", "text_encoders.t5xxl.transformer.", T5, "t5"),
        ("comfyui", "text_encoders.qwen.transformer.", CLIP, "other"),
        ("modules", "", "transformer.h.0.attn.c_attn", "model"),
        ("language", "", "model.layers.0.self_attn.q_proj", "model"),
    ],
)
def test_a_prefix_says_which_model_it_is(style: Style, prefix: str, path: str, part: str) -> None:
    flat = style == "flattened"
    found = named(f"{prefix}{path.replace('.', '_') if flat else path}.weight", style)
    assert (found.part, found.parameter, found.is_flattened) == (part, "weight", flat)
    if part != "other":
        assert (found.prefix, found.path.replace(".", "_")) == (prefix, path.replace(".", "_"))


@pytest.mark.parametrize(
    ("prefix", "part"), [("text_encoder.", "clip"), ("text_encoder_2.", "clip_g")]
)
def test_a_clip_of_transformers_5_is_one_of_before(prefix: str, part: str) -> None:
    target = f"{prefix}{CLIP.removeprefix('text_model.')}.weight"
    assert named(target, "diffusers") == (prefix, part, CLIP, "weight")
