"""Tensors that are written as they were read, where their numbers are still the same."""

from loratools.io.computed import Computed, same_numbers
from loratools.io.source import Source


def as_stored(key: str, source: Source) -> Source:
    """The tensor that was read under this key, if `source` has the same numbers in another shape.

    Some tensors may be stored in several shapes, as magnitudes are. A codec yields the one that
    most readers understand, which is right for a file that is made anew.
    """
    inner = same_numbers(source)
    return inner if inner.keys == (key,) and not isinstance(inner, Computed) else source
