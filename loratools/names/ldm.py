"""Translates LDM's names in U-Nets of Stable Diffusion (SGM's in SDXL) into diffusers' names.

LDM counts the blocks of all levels in one list, and has numbers where diffusers has names for kinds
of layers. In SD 1, SD 2 and SDXL alike, a level has two residual blocks on the way down and three
on the way up, so that diffusers' name follows from LDM's alone.
"""

import re

from loratools.names.flattened import flattened_prefix

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_BLOCK = re.compile(
    r"(input_blocks|output_blocks)[._](\d+)[._]([012])[._](.+)|(middle_block)[._]([012])[._](.+)"
)
#: Prefixes that the names of a U-Net's own modules may have.
_ROOT = re.compile(r"(model\.)?diffusion_model\.|unet\.|")


def is_ldm_name(name: str) -> bool:
    """Whether a dotted or flattened name is LDM's name of a block.

    >>> is_ldm_name("lora_unet_input_blocks_4_1_proj_in.weight")
    True
    """
    return _BLOCK.match(_without_root(name)[1]) is not None


def diffusers_name(name: str) -> str | None:
    """Translate LDM's name in a U-Net into diffusers' name; None if LDM has no such name.

    >>> diffusers_name("lora_unet_output_blocks_5_2_conv.weight")
    'lora_unet_up_blocks_1_upsamplers_0_conv.weight'
    """
    root, path = _without_root(name)
    module, dot, parameter = path.rpartition(".")
    between = "_" if flattened_prefix(name) else "."
    outside = {key.replace(".", between): there for key, there in _OUTSIDE.items()}
    found = outside.get(module) or _block(module, between)
    return None if found is None else root + found.replace(".", between) + dot + parameter


def _without_root(name: str) -> tuple[str, str]:
    """Split a name into the prefix before the U-Net's own modules, and the rest."""
    root = flattened_prefix(name)
    if not root and (found := _ROOT.match(name)):
        root = found[0]
    return root, name.removeprefix(root)


def _block(module: str, between: str) -> str | None:
    """Translate a module in a block to its dotted name in diffusers; None if it has none."""
    found = _BLOCK.fullmatch(module)
    if found is None:
        return None
    if found[5]:
        inside = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}[found[6]]
        return _inside(f"mid_block.{inside}", found[7], between)
    number, place, rest = int(found[2]), found[3], found[4]
    is_down = found[1] == "input_blocks"
    # LDM's first input block is conv_in, so blocks on the way down are counted from 1. There are
    # three a level: two residual blocks and a downsampler, or three residual blocks going up.
    level, position = divmod(number - is_down, 3)
    block = f"{'down' if is_down else 'up'}_blocks.{level}"
    if is_down and position == 2:
        return f"{block}.downsamplers.0.conv" if (place, rest) == ("0", "op") else None
    if not is_down and rest == "conv":
        return f"{block}.upsamplers.0.conv"
    if place == "2":
        return None
    return _inside(f"{block}.{('resnets', 'attentions')[int(place)]}.{position}", rest, between)


def _inside(block: str, rest: str, between: str) -> str | None:
    """Translate a layer in a block; only those of residual blocks have other names in diffusers."""
    if ".attentions." in block:
        return f"{block}.{rest}"
    residual = {key.replace(".", between): there for key, there in _RESIDUAL.items()}
    return f"{block}.{residual[rest]}" if rest in residual else None
