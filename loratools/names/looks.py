"""What kind of model names look like they are of: one that makes images, or a language model."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Literal

from loratools.errors import shorten
from loratools.names.components import labelled
from loratools.names.layouts import readings

Kind = Literal["an image model", "a language model"]

#: Parts of names that language models have, and parts of image models do not have alone.
_LANGUAGE = re.compile(
    r"^(?!.*vision)(.*\.)?(layers|h|layer)\.\d+\.(.+\.)?(self_attn|self_attention|attn|attention|"
    r"mlp|mixer|ffn|feed_forward)\b|(^|[._])(embed_tokens|lm_head|wte|word_embeddings)\b"
)
#: Labels of prefixes that programs for image models write, whatever follows.
_OF_IMAGE = re.compile(
    r"lora_(unet|te\d?|transformer)_|(unet|text_encoder(_\d|s)?)\.|(model\.)?diffusion_model\."
)
#: As many names are looked at: they tell, or no more of them would.
_MOST = 200


def kind_of(names: Iterable[str]) -> Kind | None:
    """The kind of model that most of the names are of; None if they do not tell.

    >>> kind_of(["lora_unet_mid_block_attentions_0_proj_in.weight"])
    'an image model'
    >>> kind_of(["transformer.h.0.attn.c_attn.weight"])
    'a language model'
    """
    looked = list(islice(names, _MOST))
    if 2 * sum(map(_is_of_image, looked)) > len(looked):
        return "an image model"
    return "a language model" if 2 * sum(map(_is_of_language, looked)) > len(looked) else None


def example(names: Iterable[str]) -> str:
    """The first of the names that has a number, without the parameter's, for a message.

    >>> example(["embed_tokens.weight", "layers.0.mlp.up_proj.weight"])
    'layers.0.mlp.up_proj'
    """
    names = [*names]
    name = next((name for name in names if re.search(r"\d", name)), names[0])
    return shorten(name.rpartition(".")[0] or name, 70)


def _is_of_image(name: str) -> bool:
    _, label, rest = labelled(name)
    if _OF_IMAGE.match(name):
        return True
    found = readings(rest.rpartition(".")[0]) if label in (None, "denoiser") else []
    return any(reading.component in ("unet", "transformer") for reading in found)


def _is_of_language(name: str) -> bool:
    return _LANGUAGE.search(name) is not None
