"""The block of a model that a target is in, whatever the spelling of its name.

Block weights number a U-Net's blocks as LDM does (`IN00` to `IN11`, `M00`, `OUT00` to `OUT11`),
whose lists of them are older than diffusers' names. A transformer's main stack is `B00`, `B01`, …:
Flux's double blocks, SD3's joint blocks, a language model's layers. The single blocks that follow
it in Flux and its kin are `S00`, `S01`, …. One letter serves all main stacks, because diffusers
calls all of them `transformer_blocks`. Everything else is `BASE`: text encoders, embeddings of
time, refiners, the last layer.
"""

import re

from loratools.names.flattened import flattened_prefix

BASE = "BASE"
#: The stacks of blocks, in the order in which a model runs through them.
_STACKS = ("IN", "M", "OUT", "B", "S")
#: Other names of stacks that people use: Flux's double blocks, SD3's joint blocks.
_ALSO = {"MID": "M", "D": "B", "J": "B"}

#: What may stand before a denoiser's or a language model's own modules.
_ROOT = re.compile(
    r"((base_model|model|module|net|unet|transformer|diffusion_model|language_model|decoder"
    r"|gpt_neox|backbone)\.)*"
)
_LDM = re.compile(r"(input|output)_blocks[._](\d+)(?![^._])")
_DIFFUSERS = re.compile(
    r"(down|up)_blocks[._](\d+)[._](resnets|attentions|downsamplers|upsamplers)[._](\d+)(?![^._])"
)
_MIDDLE = re.compile(r"(middle_block|mid_block)[._]")
_FIRST = re.compile(r"conv_in(?![^._])")
_SINGLE = re.compile(
    r"(single_blocks|single_transformer_blocks|single_layers|single_stream_blocks)"
    r"[._](\d+)(?![^._])"
)
_MAIN = re.compile(
    r"(double_blocks|double_layers|double_stream_blocks|joint_blocks|joint_transformer_blocks"
    r"|transformer_blocks|blocks|layers|h)[._](\d+)(?![^._])"
)
_LABEL = re.compile(r"([A-Z]+?)(\d{1,3})")


def block_of(target: str) -> str:
    """The block that a parameter or a module is in.

    >>> block_of("lora_unet_up_blocks_1_attentions_2_proj_in.weight")
    'OUT05'
    >>> block_of("diffusion_model.double_blocks.3.img_attn.qkv.weight")
    'B03'
    >>> block_of("text_encoder.text_model.encoder.layers.0.mlp.fc1.weight")
    'BASE'
    """
    prefix = flattened_prefix(target)
    if re.search(r"te\d?_+$", prefix):
        return BASE
    path = target.removeprefix(prefix)
    if not prefix and (root := _ROOT.match(path)):
        path = path[root.end() :]
    if unet := _unet_block(path):
        return unet
    for stack, pattern in (("S", _SINGLE), ("B", _MAIN)):
        if found := pattern.match(path):
            return _label(stack, int(found[2]))
    return BASE


def _unet_block(path: str) -> str | None:
    """The block of a module in a U-Net; None if it is in none."""
    if _MIDDLE.match(path):
        return _label("M", 0)
    if _FIRST.match(path):
        return _label("IN", 0)
    if found := _LDM.match(path):
        return _label("IN" if found[1] == "input" else "OUT", int(found[2]))
    if found := _DIFFUSERS.match(path):
        level, place = int(found[2]), int(found[4])
        # A level has two residual blocks and a downsampler on the way down, and three on the way
        # up, the last with the upsampler. LDM's first input block is conv_in.
        position = {"downsamplers": 2, "upsamplers": 2}.get(found[3], place)
        is_down = found[1] == "down"
        return _label("IN" if is_down else "OUT", 3 * level + position + is_down)
    return None


def _label(stack: str, number: int) -> str:
    return f"{stack}{number:02}"


def parsed_label(text: str) -> str | None:
    """The block that a person means, in its usual spelling; None if the text names no block.

    >>> [parsed_label(text) for text in ("OUT3", "mid", "D07", "BASE", "x")]
    ['OUT03', 'M00', 'B07', 'BASE', None]
    """
    text = text.upper()
    if text == BASE:
        return BASE
    found = _LABEL.fullmatch("M00" if text == "MID" else text)
    stack = _ALSO.get(found[1], found[1]) if found else ""
    return _label(stack, int(found[2])) if found and stack in _STACKS else None


def position(label: str) -> tuple[int, int]:
    """The place of a block in the order of lists: first `BASE`, then stack by stack."""
    stack = label.rstrip("0123456789")
    return (-1, 0) if label == BASE else (_STACKS.index(stack), int(label[len(stack) :]))


def stack_of(label: str) -> str:
    """The stack of a block, where a U-Net's three are one: `UNET`, `B`, `S`, or `BASE`."""
    stack = label.rstrip("0123456789")
    return "UNET" if stack in ("IN", "M", "OUT") else stack
