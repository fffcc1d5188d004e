"""Tensors that are written as they were read, where their numbers are still the same."""

import math
from collections.abc import Collection

from loratools.formats._modules.spelling import without_adapter
from loratools.io.computed import Computed
from loratools.io.source import Reshaped, Source, Transposed


def as_stored(module: str, key: str, source: Source, filed: Collection[str]) -> tuple[str, Source]:
    """The key and the tensor that are written for a part of a module.

    They are those that were read if the file had the same numbers in this module; `filed` are its
    keys, without the name of an adapter. Some parts have several names and shapes, as magnitudes
    do. A codec yields those that most readers understand, which are right for a file that is made
    anew.
    """
    inner = _unshaped(source)
    same = math.prod(inner.shape) == math.prod(source.shape)
    if isinstance(inner, Computed | Transposed) or not same:
        return key, source
    stored = without_adapter(*inner.keys)
    is_own = stored in filed and stored.startswith(f"{module}.")
    return (stored, inner) if is_own else (key, source)


def _unshaped(source: Source) -> Source:
    """The tensor whose numbers, in the same order, are seen in another shape."""
    if isinstance(source, Reshaped):
        return _unshaped(source.source)
    if isinstance(source, Computed) and source.is_rearranged:
        return _unshaped(source.sources[0])
    return source
