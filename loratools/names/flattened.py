"""Names of modules with `_` for their dots, as kohya files them, after the part they belong to.

`lora_unet_down_blocks_0_attn1_to_q` is `down_blocks.0.attn1.to_q` of a U-Net. What was a dot and
what was not cannot be seen, so such a name is never taken apart: a base's own names are flattened.
"""

import re

#: LyCORIS alone names no part; Wan-Fun leaves one underscore too many.
_PREFIX = re.compile(r"lycoris_|(lora|oft)_((prior_)?(unet|te)\d?_|transformer_)?_?")


def flattened_prefix(name: str) -> str:
    """What a flattened name begins with before the path of its module; empty in any other name."""
    prefix = _PREFIX.match(name.partition(".")[0])
    return prefix[0] if prefix else ""


def flattened_path(name: str) -> str | None:
    """The path in a flattened name of a parameter, without its prefix; None in any other name."""
    module, dot, _ = name.rpartition(".")
    if not dot or "." in module:
        return None
    prefix = _PREFIX.match(module)
    return None if prefix is None else module[prefix.end() :]


def endings(name: str) -> tuple[str, ...]:
    """The path of a base's parameter, and what follows each of its dots, all flattened.

    >>> endings("model.blocks.0.to_q.weight")
    ('model_blocks_0_to_q', 'blocks_0_to_q', '0_to_q', 'to_q')
    """
    parts = name.split(".")[:-1]
    return tuple("_".join(parts[begin:]) for begin in range(len(parts)))


def without_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a linear layer's weight in place of that of a 1x1 convolution."""
    return shape[:2] if set(shape[2:]) <= {1} else shape
