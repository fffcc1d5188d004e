"""Both sets of names of the U-Nets of Stable Diffusion, as the published files have them."""

import pytest

from loratools.names.ldm import diffusers_name, is_ldm_name

#: Of SDXL (and SD 1, where it says so): LDM's name, and diffusers' name for the same tensor.
PAIRS = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb.0.0", "add_embedding.linear_1"),
    ("label_emb.0.2", "add_embedding.linear_2"),
    ("input_blocks.0.0", "conv_in"),
    ("input_blocks.1.0.in_layers.0", "down_blocks.0.resnets.0.norm1"),
    ("input_blocks.1.0.in_layers.2", "down_blocks.0.resnets.0.conv1"),
    ("input_blocks.2.0.emb_layers.1", "down_blocks.0.resnets.1.time_emb_proj"),
    ("input_blocks.2.0.out_layers.0", "down_blocks.0.resnets.1.norm2"),
    ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
    ("input_blocks.4.0.skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
    ("input_blocks.4.1.proj_in", "down_blocks.1.attentions.0.proj_in"),
    ("input_blocks.5.1.transformer_blocks.1.attn2.to_out.0",
     "down_blocks.1.attentions.1.transformer_blocks.1.attn2.to_out.0"),
    ("input_blocks.8.1.transformer_blocks.9.ff.net.0.proj",
     "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj"),
    ("input_blocks.11.0.out_layers.3", "down_blocks.3.resnets.1.conv2"),  # SD 1
    ("middle_block.0.in_layers.2", "mid_block.resnets.0.conv1"),
    ("middle_block.1.proj_out", "mid_block.attentions.0.proj_out"),
    ("middle_block.2.out_layers.3", "mid_block.resnets.1.conv2"),
    ("output_blocks.0.0.skip_connection", "up_blocks.0.resnets.0.conv_shortcut"),
    ("output_blocks.2.1.norm", "up_blocks.0.attentions.2.norm"),
    ("output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),  # SD 1
    ("output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
    ("output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
    ("output_blocks.8.0.in_layers.2", "up_blocks.2.resnets.2.conv1"),
    ("output_blocks.11.1.transformer_blocks.0.attn1.to_q",
     "up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_q"),  # SD 1
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
)  # fmt: skip


@pytest.mark.parametrize(("ldm", "diffusers"), PAIRS)
@pytest.mark.parametrize("root", ["", "model.diffusion_model.", "lora_unet_", "lycoris_"])
def test_name_of_diffusers_follows_from_that_of_ldm(root: str, ldm: str, diffusers: str) -> None:
    def stored(name: str) -> str:
        return f"{root}{name.replace('.', '_') if root.endswith('_') else name}.weight"

    assert diffusers_name(stored(ldm)) == stored(diffusers)
    assert diffusers_name(stored(diffusers)) is None
    assert is_ldm_name(stored(ldm)) is ("_block" in ldm)
    assert not is_ldm_name(stored(diffusers))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.out.0.weight",
        "input_blocks.3.0.strange.weight",
        "input_blocks.3.1.op.weight",
        "output_blocks.2.2.strange.weight",
        "input_blocks.4.0.out_layers.1.weight",
        "lora_te_text_model_out_2.weight",
    ],
)
def test_other_names_are_left(name: str) -> None:
    assert diffusers_name(name) is None
