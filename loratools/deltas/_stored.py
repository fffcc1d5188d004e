"""The tensors that a change can be made of."""

from loratools.errors import FormatError, UnsupportedError
from loratools.io.dtypes import FACTORS
from loratools.io.source import Source


def check_stored(*sources: Source) -> None:
    """What every kind asks of the tensors it is made of, when it is made.

    Raises:
        FormatError: one has no elements.
        UnsupportedError: one is not stored as floats: it has an imaginary part that would be lost,
            or is made of codes, which mean nothing without their scales.
    """
    for source in sources:
        if source.dtype not in FACTORS:
            raise UnsupportedError(
                f"{source.keys[0]}: is stored as {source.dtype}; the tensors of an update are "
                f"floats of 8 to 64 bits"
            )
        if 0 in source.shape:
            raise FormatError(f"{source.keys[0]}: {list(source.shape)} has no elements")
