"""A flattened name is known by its prefix, and compared with names that are flattened."""

import pytest

from loratools.names.flattened import endings, flattened_path, without_kernel


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("lora_unet_down_blocks_0_to_q.weight", "down_blocks_0_to_q"),
        ("lora_unet__blocks_0_q.weight", "blocks_0_q"),
        ("lora_te_text_model_fc1.weight", "text_model_fc1"),
        ("lora_te3_encoder_block_0.weight", "encoder_block_0"),
        ("lora_transformer_transformer_blocks_0.weight", "transformer_blocks_0"),
        ("lora_prior_unet_down_blocks_0.weight", "down_blocks_0"),
        ("lora_prior_te_text_model_fc1.weight", "text_model_fc1"),
        ("lycoris_transformer_blocks_0_to_q.weight", "transformer_blocks_0_to_q"),
        ("lora_blocks_0_to_q.weight", "blocks_0_to_q"),
    ],
)
def test_path_is_what_follows_the_prefix(name: str, path: str) -> None:
    assert flattened_path(name) == path


@pytest.mark.parametrize(
    "name",
    ["model.lora_unet_q.weight", "lora_unet_q", "fc_1.weight", "lora.weight", "", "unet_q.weight"],
)
def test_other_names_are_not_flattened(name: str) -> None:
    assert flattened_path(name) is None


def test_endings_begin_after_dots_only() -> None:
    assert endings("single_blocks.0.to_q.weight") == ("single_blocks_0_to_q", "0_to_q", "to_q")
    assert endings("weight") == ()


def test_kernel_of_one_is_none() -> None:
    assert without_kernel((4, 3, 1, 1)) == without_kernel((4, 3, 1)) == without_kernel((4, 3))
    assert without_kernel((4, 3, 1, 3)) == (4, 3, 1, 3)
    assert without_kernel((4,)) == (4,)
