"""Groups targets whose names differ only in numbers, so that they are shown as one row."""

import re
from functools import lru_cache

from loratools.names.flattened import flattened_path

_FLATTENED_NUMBER = re.compile(r"(?<=_)[0-9]+(?=[_.])")
_NUMBER = re.compile(r"\.[0-9]+(?=\.)")


# Many adapters in a folder have the same targets.
@lru_cache(maxsize=2**14)
def pattern_of(name: str) -> str:
    """A name with `*` for every part that is a number: `model.layers.*.mlp`."""
    if flattened_path(name) is not None:
        return _FLATTENED_NUMBER.sub("*", name)
    return _NUMBER.sub(".*", name)
