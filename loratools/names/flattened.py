"""Flattened names, as kohya stores them: a prefix for the part of a model, then a path with `_`.

`lora_unet_down_blocks_0_attn1_to_q` is `down_blocks.0.attn1.to_q` of a U-Net. It cannot be seen
which `_` was a dot, so such a name is never split: a base's own names are flattened and compared.
"""

import re
from typing import TypeVar

#: A prefix of LyCORIS names no part of a model; one of Wan-Fun ends with one underscore too many.
_PREFIX = re.compile(r"lycoris_|(lora|oft)_((prior_)?(unet|te)\d?_|transformer_)?_?")

#: The size of an axis, or None if it is open.
_Size = TypeVar("_Size", int, int | None)


def flattened_prefix(name: str) -> str:
    """The prefix of a flattened name, before the path of the module; empty for any other name."""
    prefix = _PREFIX.match(name.partition(".")[0])
    return prefix[0] if prefix else ""


def flattened_path(name: str) -> str | None:
    """The module path in a flattened parameter's name, without prefix; None for any other name."""
    module, dot, _ = name.rpartition(".")
    if not dot or "." in module:
        return None
    prefix = _PREFIX.match(module)
    return None if prefix is None else module[prefix.end() :]


def endings(name: str) -> tuple[str, ...]:
    """The module path of a base's parameter and all its suffixes that follow a dot, flattened.

    >>> endings("model.blocks.0.to_q.weight")
    ('model_blocks_0_to_q', 'blocks_0_to_q', '0_to_q', 'to_q')
    """
    parts = name.split(".")[:-1]
    return tuple("_".join(parts[begin:]) for begin in range(len(parts)))


def without_kernel(shape: tuple[_Size, ...]) -> tuple[_Size, ...]:
    """The shape of a 1x1 convolution's weight as that of a linear layer; others as they are."""
    return shape[:2] if set(shape[2:]) <= {1} else shape
