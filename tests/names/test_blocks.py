"""The block that a target is in, which no spelling of its name changes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import loratools.names
from loratools.names.block_lists import LISTS
from loratools.names.blocks import block_of, parsed_label, position
from loratools.names.rules import parse_rules
from tests.formats.spellings import SPELLED, Spelled

ALIASES = sorted((Path(loratools.names.__file__).parent / "aliases").glob("*.txt"))


def names_by_rule(file: Path) -> Iterator[tuple[str, str]]:
    """The names of each tensor of a denoiser in both layouts; where any block serves, in two."""
    fields, rules = parse_rules(file.read_text())
    if fields["component"] not in ("unet", "transformer"):
        return
    for rule in rules.rules:
        for number in ("3", "11"):
            original, diffusers = (
                ".".join(number if word.startswith("{") else word for word in words)
                for words in (rule.original, rule.diffusers or rule.original)
            )
            yield original, diffusers


@pytest.mark.parametrize("file", ALIASES, ids=lambda file: file.stem)
def test_both_layouts_of_a_model_have_the_same_blocks(file: Path) -> None:
    for original, diffusers in names_by_rule(file):
        block = block_of(f"{original}.weight")
        assert block_of(f"{diffusers}.weight") == block, original


@pytest.mark.parametrize("file", ALIASES, ids=lambda file: file.stem)
def test_no_prefix_and_no_flattening_changes_a_block(file: Path) -> None:
    for original, diffusers in names_by_rule(file):
        block = block_of(f"{original}.weight")
        for name in (original, diffusers):
            flat = name.replace(".", "_")
            for prefix in ("lora_unet_", "lora_unet__", "lycoris_", "lora_transformer_"):
                assert block_of(f"{prefix}{flat}.weight") == block, name
        for prefix in ("diffusion_model.", "model.diffusion_model.", "base_model.model."):
            assert block_of(f"{prefix}{original}.weight") == block, original
        for prefix in ("unet.", "transformer."):
            assert block_of(f"{prefix}{diffusers}.weight") == block, diffusers


def test_a_unet_has_the_blocks_that_its_lists_name() -> None:
    file = next(file for file in ALIASES if file.stem == "stable_diffusion")
    found = {block_of(f"{original}.weight") for original, _ in names_by_rule(file)}
    assert found == {block for order in LISTS if "M00" in order.blocks for block in order.blocks}


@pytest.mark.parametrize(
    ("target", "block"),
    [
        ("lora_unet_down_blocks_1_attentions_0_proj_in.weight", "IN04"),
        ("lora_unet_down_blocks_2_downsamplers_0_conv.weight", "IN09"),
        ("lora_unet_up_blocks_3_attentions_2_proj_out.weight", "OUT11"),
        ("unet.up_blocks.0.upsamplers.0.conv.weight", "OUT02"),
        ("lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_v.weight", "IN08"),
        ("diffusion_model.middle_block.1.proj_in.weight", "M00"),
        ("unet.conv_in.weight", "IN00"),
        ("lora_unet_single_blocks_37_linear1.weight", "S37"),
        ("transformer.single_transformer_blocks.0.proj_mlp.weight", "S00"),
        ("lora_unet_joint_blocks_23_context_block_attn_qkv.weight", "B23"),
        ("model.layers.31.self_attn.q_proj.weight", "B31"),
        ("base_model.model.model.layers.2.mlp.up_proj.weight", "B02"),
        ("transformer.h.11.attn.c_attn.weight", "B11"),
        # What is in none of the stacks:
        ("lora_te_text_model_encoder_layers_3_mlp_fc1.weight", "BASE"),
        ("lora_te_layers_3_self_attn_q_proj.weight", "BASE"),
        ("text_encoder_2.text_model.encoder.layers.3.mlp.fc1.weight", "BASE"),
        ("text_encoder.encoder.layers.3.mlp.fc1.weight", "BASE"),
        ("lora_te3_encoder_block_3_layer_0_SelfAttention_q.weight", "BASE"),
        ("lora_unet_time_embed_0.weight", "BASE"),
        ("diffusion_model.img_in.weight", "BASE"),
        ("diffusion_model.txt_in.individual_token_refiner.blocks.1.mlp.fc1.weight", "BASE"),
        ("lora_unet_noise_refiner_1_attention_qkv.weight", "BASE"),
        ("model.visual.blocks.3.attn.qkv.weight", "BASE"),
        ("model.embed_tokens.weight", "BASE"),
    ],
)
def test_block_of_a_target(target: str, block: str) -> None:
    assert block_of(target) == block


@pytest.mark.parametrize("spelled", SPELLED, ids=lambda spelled: spelled.trainer)
def test_every_trainers_name_of_a_layer_in_a_block_shows_the_block(spelled: Spelled) -> None:
    """All models with numbered layers in the files of trainers; Cascade's and BERT's have none."""
    for target in spelled.weights:
        is_outside = any(part in target for part in ("_te", "text_enc", "_prior_", "roberta"))
        assert (block_of(target) == "BASE") == is_outside, target


@pytest.mark.parametrize(
    ("text", "label"),
    [("IN4", "IN04"), ("out11", "OUT11"), ("MID", "M00"), ("M00", "M00"), ("base", "BASE"),
     ("D7", "B07"), ("J03", "B03"), ("S37", "S37"), ("X1", None), ("IN", None), ("7", None),
     ("", None)],
)  # fmt: skip
def test_a_person_may_write_a_block_in_other_ways(text: str, label: str | None) -> None:
    assert parsed_label(text) == label


def test_blocks_are_in_the_order_in_which_a_model_runs_through_them() -> None:
    labels = ["BASE", "IN00", "IN11", "M00", "OUT00", "OUT03", "B00", "B12", "S00"]
    assert sorted(sorted(labels), key=position) == labels
