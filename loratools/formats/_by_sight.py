"""Dialects that loratools recognises but cannot read yet, so that errors can name them."""

import re
from collections.abc import Iterable
from typing import NamedTuple, final


@final
class Sight(NamedTuple):
    """How to recognise a dialect that has no folder in `formats/` yet.

    Attributes:
        dialect: the name that its folder will have.
        keys: a regular expression; the dialect is recognised where it matches a part of any key.
        name: what errors call an adapter in this dialect.
        weights: the fixed name of the weights file in an adapter's folder, if there is one.
    """

    dialect: str
    keys: str
    name: str
    weights: str | None = None


#: The first row whose pattern matches a key decides. A row is ignored once its dialect has a
#: folder, because the dialect then claims its files itself.
KNOWN_BY_SIGHT = (
    Sight("lycoris", r"\.(lokr_w[12]|hada_w[12])(_[ab])?$", "a LyCORIS adapter"),
    Sight(
        "diffusers",
        r"(\.|_)lora\.(down|up)\.weight$|\.processor\..*_lora\.",
        "a diffusers LoRA",
        "pytorch_lora_weights.safetensors",
    ),
)


def seen(keys: Iterable[str], readable: Iterable[str]) -> str | None:
    """The name of the first dialect with such keys that is not one of the `readable` dialects."""
    keys, readable = tuple(keys), set(readable)
    for sight in KNOWN_BY_SIGHT:
        if sight.dialect not in readable and any(re.search(sight.keys, key) for key in keys):
            return sight.name
    return None
