"""Recognises files that a training saved in parts, without gathering them from its processes.

ZeRO-3 and FSDP spread parameters over processes. What one of them saves by itself has empty or flat
tensors in place of factors, or FSDP's own `flat_param`. No dialect can decode that; here is why.
"""

import re

from loratools.errors import shorten
from loratools.io.bundle import Bundle

_FACTOR = re.compile(r"\blora_(embedding_)?(A|B|a|b|down|up)(\.(?!bias$)[^.]+)?(\.weight)?$")
_FLAT = re.compile(r"(^|\.)_?flat_param(_\d+)?$")


def ungathered(bundle: Bundle) -> str | None:
    """The reason why a bundle cannot be decoded, if one of its factors is flat or empty."""
    for key, source in bundle.tensors.items():
        shape = source.shape
        is_part = (len(shape) < 2 or 0 in shape) and _FACTOR.search(key)
        if is_part or _FLAT.search(key):
            return (
                f"{shorten(key)} {list(shape)} looks like what one process of a training holds "
                f"under ZeRO-3 or FSDP: if so, the parameters were not gathered when this file was "
                f"saved, and most of them are not in it; save it again from a checkpoint"
            )
    return None
