"""Checks the stored tensors that a change is made of."""

from loratools.errors import FormatError, UnsupportedError
from loratools.io.dtypes import FACTORS
from loratools.io.source import Source


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
                f"{source.keys[0]}: is stored as {source.dtype}; the tensors of an update are "
                f"floats of 8 to 64 bits"
            )
        if 0 in source.shape:
            raise FormatError(f"{source.keys[0]}: {list(source.shape)} has no elements")
