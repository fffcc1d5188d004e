"""Adapters that spell the same modules in different ways get one spelling, or are refused."""

import pytest

from loratools.errors import MatchError
from loratools.names.spelling import mixes_unets, respelled

OLD, NEW, TEXT = "language_model.model.", "model.language_model.", "model."


def found(names: list[str], reference: list[str]) -> tuple[list[str], tuple[str, ...]]:
    weights = [[f"{name}.weight" for name in group] for group in (names, reference)]
    respelling = respelled(weights[0], weights[1], "two")
    return [name.removesuffix(".weight") for name in respelling.names.values()], respelling.changes


@pytest.mark.parametrize(
    ("names", "reference", "renamed", "change"),
    [
        ([TEXT + "layers.0.q"], [OLD + "layers.0.q"], [OLD + "layers.0.q"],
         "language_model. added"),
        ([TEXT + "layers.0.q"], [NEW + "layers.0.q"], [NEW + "layers.0.q"], "model. → " + NEW),
        ([OLD + "layers.0.q"], [NEW + "layers.0.q"], [NEW + "layers.0.q"], f"{OLD} → {NEW}"),
        # Other layers and other modules of the same blocks
        ([OLD + "layers.0.q"], [NEW + "layers.5.k"], [NEW + "layers.0.q"], f"{OLD} → {NEW}"),
        # What the other adapter has nothing of is renested along
        (
            [OLD + "layers.0.q", "language_model.lm_head", "vision_tower.layers.0.q"],
            [NEW + "layers.0.q"],
            [NEW + "layers.0.q", "lm_head", "model.vision_tower.layers.0.q"],
            f"{OLD} → {NEW}, language_model.lm_head. → lm_head., vision_tower. → "
            "model.vision_tower.",
        ),
        (
            [NEW + "layers.0.q", "lm_head", "model.visual.blocks.0.q"],
            [TEXT + "layers.0.q"],
            [TEXT + "layers.0.q", "lm_head", "visual.blocks.0.q"],
            f"{NEW} → model., model.visual. → visual.",
        ),
        # Other parts of a model that was renested
        (["visual.blocks.0.q"], [NEW + "layers.0.q"], ["model.visual.blocks.0.q"],
         "visual. → model.visual."),
        (
            [NEW + "layers.0.q", "lm_head"],
            ["vision_tower.layers.0.q"],
            [OLD + "layers.0.q", "lm_head"],
            f"{NEW} → {OLD}",
        ),
        (["layers.0.q", "norm"], ["model.layers.0.q"], ["model.layers.0.q", "model.norm"],
         "model. added"),
        (["transformer.h.0.q"], ["h.1.q"], ["h.0.q"], "transformer. removed"),
        # A root of any name that all of one adapter is in
        (["backbone.layers.0.q"], ["layers.0.q"], ["layers.0.q"], "backbone. removed"),
        (["layers.0.q"], ["net.backbone.layers.0.q"], ["net.backbone.layers.0.q"],
         "net.backbone. added"),
        # A text encoder of transformers 5 and one of before
        (["text_encoder.encoder.layers.0.q"], ["text_encoder.text_model.encoder.layers.0.q"],
         ["text_encoder.text_model.encoder.layers.0.q"],
         "text_encoder. → text_encoder.text_model."),
        # A U-Net beside a text encoder, and alone
        (["down_blocks.0.q"], ["unet.down_blocks.0.q", "text_encoder.layers.0.q"],
         ["unet.down_blocks.0.q"], "unet. added"),
        (["unet.down_blocks.0.q", "text_encoder.layers.0.q"],
         ["model.diffusion_model.down_blocks.0.q"],
         ["model.diffusion_model.down_blocks.0.q", "text_encoder.layers.0.q"],
         "unet. → model.diffusion_model."),
        # Flattened
        (["lora_unet_input_blocks_4_1_q"], ["lora_unet_diffusion_model_input_blocks_5_1_q"],
         ["lora_unet_diffusion_model_input_blocks_4_1_q"],
         "lora_unet_ → lora_unet_diffusion_model_"),
        (["lora_te1_encoder_layers_0_fc1"], ["lora_te1_text_model_encoder_layers_1_fc1"],
         ["lora_te1_text_model_encoder_layers_0_fc1"], "lora_te1_ → lora_te1_text_model_"),
        (["lycoris_mid_block_attn_0_q"], ["lora_unet_mid_block_attn_0_q"],
         ["lora_unet_mid_block_attn_0_q"], "lycoris_ → lora_unet_"),
    ],
)  # fmt: skip
def test_names_get_the_spelling_of_the_reference(
    names: list[str], reference: list[str], renamed: list[str], change: str
) -> None:
    assert found(names, reference) == (renamed, tuple(change.split(", ")))


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        (["model.layers.0.q"], ["model.layers.0.q", "model.layers.1.q"]),
        (["encoder.layers.0.q"], ["decoder.layers.0.q"]),
        (["second"], ["first"]),
        (["text_model.layers.0.q"], ["vision_model.layers.0.q"]),
        (["lora_te2_text_model_layers_0_q"], ["lora_te1_text_model_layers_0_q"]),
        (["lora_te_text_model_layers_0_q"], ["lora_unet_down_blocks_0_q"]),
        # Both names in one adapter are two modules
        (["model.layers.0.q", "layers.0.q"], ["layers.0.q", "layers.1.q"]),
    ],
)
def test_other_modules_keep_their_names(names: list[str], reference: list[str]) -> None:
    assert found(names, reference) == (names, ())


@pytest.mark.parametrize(
    ("names", "reference", "message"),
    [
        (["model.layers.0.q"], [OLD + "layers.0.q", NEW + "layers.0.q"], "may be any of"),
        (["model.layers.0.q", OLD + "layers.0.q"], [NEW + "layers.0.q"], "both mean"),
        (["block.linear"], ["linear"], "cannot be told from the names"),
        # A root of only a part of the adapter, or of one of several parts of a model
        (["backbone.layers.0.q", "head.dense"], ["layers.0.q"], "cannot be told"),
        (["layers.0.q"], ["backbone.layers.0.q", "head.dense"], "cannot be told"),
        (["layers.0.q"], ["vision_model.encoder.layers.0.q"], "cannot be told"),
        (["decoder.layers.0.q"], ["layers.0.q"], "cannot be told"),
        (["lora_te_encoder_layers_0_q"], ["lora_te1_encoder_layers_0_q"], "cannot be told"),
        (["lora_unet_double_blocks_0_img_attn_qkv"], ["lora_unet_transformer_blocks_0_attn_to_q"],
         "names in another way"),
        (["lora_unet_double_blocks_0_img_attn_qkv"],
         ["lora_transformer_transformer_blocks_0_attn_to_q"], "names in another way"),
        (["single_transformer_blocks.0.q"], ["single_blocks.0.linear1"], "names in another way"),
        (["lora_te2_transformer_resblocks_0_attn"], ["lora_te2_text_model_encoder_layers_0_q"],
         "names in another way"),
        (["lora_unet_input_blocks_4_1_q"], ["lora_unet_up_blocks_0_q"], "names in another way"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_by_name(
    names: list[str], reference: list[str], message: str
) -> None:
    with pytest.raises(MatchError, match=rf"two: {names[0]}.weight .*{message}"):
        found(names, reference)


def test_one_prefix_does_not_stand_for_two() -> None:
    with pytest.raises(MatchError, match=r"two: norm.weight may be transformer.norm.weight"):
        found(["layers.0.q", "norm"], ["model.layers.0.q", "transformer.norm"])


def test_unets_are_mixed_where_both_sets_of_names_occur() -> None:
    ldm, diffusers = ["lora_unet_input_blocks_4_1_q.weight"], ["lora_unet_mid_block_q.weight"]
    other = ["lora_te_text_model_encoder_layers_0_q.weight"]
    assert mixes_unets([ldm, diffusers])
    assert not mixes_unets([ldm, ldm, other])
    assert not mixes_unets([diffusers, other])
