"""Dialects that are known by sight but cannot be read yet, so that their files can be named."""

import re
from collections.abc import Iterable
from typing import NamedTuple, final


@final
class Sight(NamedTuple):
    """A dialect as others know it: its future folder, a pattern of its keys, and what it is called.

    `weights` is the file of tensors in an adapter's folder, where that has a fixed name.
    """

    dialect: str
    keys: str
    name: str
    weights: str | None = None


#: A row counts until there is a folder of its name. The first whose pattern has a hit is named.
KNOWN_BY_SIGHT = (
    Sight("lycoris", r"\.(lokr_w[12]|hada_w[12])(_[ab])?$", "a LyCORIS adapter"),
    Sight(
        "diffusers",
        r"(\.|_)lora\.(down|up)\.weight$|\.processor\..*_lora\.",
        "a diffusers LoRA",
        "pytorch_lora_weights.safetensors",
    ),
    Sight("mlx", r"\.lora_[ab]$", "an MLX LoRA", "adapters.safetensors"),
    Sight("cloneofsimo", r"^(unet|text_encoder):\d+:(up|down)$", "a cloneofsimo LoRA"),
    Sight("sam", r"^w_[ab]_\d+$", "a SAM LoRA (Sam_LoRA)"),
    Sight("dotted", r"\.lora_(down|up)\.weight$", "a LoRA in a dialect of its own"),
)


def seen(keys: Iterable[str], readable: Iterable[str]) -> str | None:
    """What a dialect is called that has such keys, and is not one of the `readable` ones."""
    keys, readable = tuple(keys), set(readable)
    for sight in KNOWN_BY_SIGHT:
        if sight.dialect not in readable and any(re.search(sight.keys, key) for key in keys):
            return sight.name
    return None
