"""Checks the stored tensors that a change is made of, and finds those that are all zeros."""

from collections.abc import Sequence

from loratools.errors import FormatError, UnsupportedError
from loratools.io.dtypes import FACTORS
from loratools.io.source import Source
from loratools.io.values import is_zero


def check_stored(*sources: Source) -> None:
    """Check the tensors that a change is made of; every kind calls this when it is constructed.

    Raises:
        FormatError: a tensor has no elements.
        UnsupportedError: a tensor is not stored as floats: it is complex, so that an imaginary part
            would be lost, or holds quantised codes, which mean nothing without their scales.
    """
    for source in sources:
        if source.dtype not in FACTORS:
            raise UnsupportedError(
                f"{source.keys[0]}: is stored as {source.dtype}, and the tensors of an update are "
                f"floats of 8 to 64 bits",
                tensor=source.keys[0],
            )
        if 0 in source.shape:
            raise FormatError(
                f"{source.keys[0]}: {list(source.shape)} has no elements", tensor=source.keys[0]
            )


def swapped(up: Sequence[int], down: Sequence[int]) -> str | None:
    """The question whether two factors are swapped, which have no common rank as they are.

    None if they have no common rank when they are swapped either.
    """
    if len(up) < 2 or len(down) < 2 or up[0] != down[1]:
        return None
    return f"they have rank {up[0]} the other way round: are the two swapped?"


def zero_factor(up: Source, *others: tuple[str, Source]) -> str | None:
    """The reason why a product of factors, the others with their names, is zero; else None."""
    if is_zero(up):
        return "up is zero throughout, as before training or with a strength of 0"
    zero = next((name for name, source in others if is_zero(source)), None)
    return None if zero is None else f"{zero} is zero throughout"
