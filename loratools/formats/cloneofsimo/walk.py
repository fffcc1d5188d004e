"""The layers that cloneofsimo's trainer visits in Stable Diffusion 1 and 2, in its order.

It stores factors by their position on this walk and not by the names of layers: it takes the
modules of some classes in the order in which the model registers them, and of each the layers in
it (`_find_modules` in https://github.com/cloneofsimo/lora, Apache-2.0). That order is a fact of the
model's classes in diffusers and transformers. Tests compare it with theirs.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, final

Shape = tuple[int, ...]

ATTENTION = frozenset({"CrossAttention", "Attention"})
PERCEPTRON = "GEGLU"
RESNET = "ResnetBlock2D"
#: The widths of the blocks on the way down; all but the last have attentions.
_WIDTHS = (320, 640, 1280, 1280)
_TIME = 1280
#: The width of the text encoder, which the second attention of a block looks at.
_TEXT_WIDTHS = {"Stable Diffusion 1": 768, "Stable Diffusion 2": 1024}


@final
class Layer(NamedTuple):
    """A layer's path in its model, and the shape of its weight."""

    path: str
    shape: Shape


@final
class Walk(NamedTuple):
    """The layers that are visited in a model of this family."""

    family: str
    layers: Sequence[Layer]


def walks_of_unet(classes: Collection[str]) -> Iterator[Walk]:
    """The walks through a U-Net that visit these classes.

    The perceptron of a block comes before its second attention until diffusers 0.11, and last in
    later versions.
    """
    for family, text in _TEXT_WIDTHS.items():
        for order in (("attn1", "ff", "attn2"), ("attn1", "attn2", "ff")):
            yield Walk(family, tuple(_unet(classes, text, order)))


def walk_of_text_encoder(count: int, width: int) -> Walk:
    """The walk through the attentions of a CLIP text encoder with so many layers in them."""
    parts = ("k_proj", "v_proj", "q_proj", "out_proj")
    paths = (
        f"text_model.encoder.layers.{number}.self_attn.{part}"
        for number in range(-(-count // len(parts)))
        for part in parts
    )
    return Walk("a CLIP text encoder", tuple(Layer(path, (width, width)) for path in paths))


def _unet(classes: Collection[str], text: int, order: Sequence[str]) -> Iterator[Layer]:
    last = len(_WIDTHS) - 1
    for number, (before, width) in enumerate(pairwise((_WIDTHS[0], *_WIDTHS))):
        block = f"down_blocks.{number}"
        if number < last:
            yield from _attentions(block, 2, width, classes, text, order)
        yield from _resnets(block, [before, width], width, classes)
    # The middle comes last, because the model registers it after the way up.
    up = _WIDTHS[::-1]
    for number, width in enumerate(up):
        block = f"up_blocks.{number}"
        if number > 0:
            yield from _attentions(block, 3, width, classes, text, order)
        before, skipped = up[max(number - 1, 0)], up[min(number + 1, last)]
        inputs = (before + width, width + width, width + skipped)
        yield from _resnets(block, inputs, width, classes)
    yield from _attentions("mid_block", 1, up[0], classes, text, order)
    yield from _resnets("mid_block", [up[0], up[0]], up[0], classes)


def _attentions(
    block: str, count: int, width: int, classes: Collection[str], text: int, order: Sequence[str]
) -> Iterator[Layer]:
    for number in range(count):
        inside = f"{block}.attentions.{number}.transformer_blocks.0"
        for part in order:
            if part == "ff" and PERCEPTRON in classes:
                yield Layer(f"{inside}.ff.net.0.proj", (8 * width, width))
            elif part != "ff" and not ATTENTION.isdisjoint(classes):
                seen = text if part == "attn2" else width
                yield Layer(f"{inside}.{part}.to_q", (width, width))
                yield Layer(f"{inside}.{part}.to_k", (width, seen))
                yield Layer(f"{inside}.{part}.to_v", (width, seen))
                yield Layer(f"{inside}.{part}.to_out.0", (width, width))


def _resnets(
    block: str, inputs: Sequence[int], width: int, classes: Collection[str]
) -> Iterator[Layer]:
    if RESNET not in classes:
        return
    for number, before in enumerate(inputs):
        inside = f"{block}.resnets.{number}"
        yield Layer(f"{inside}.conv1", (width, before, 3, 3))
        yield Layer(f"{inside}.time_emb_proj", (width, _TIME))
        yield Layer(f"{inside}.conv2", (width, width, 3, 3))
        if before != width:
            yield Layer(f"{inside}.conv_shortcut", (width, before, 1, 1))
