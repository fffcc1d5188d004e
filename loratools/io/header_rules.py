"""The rules for one entry of a safetensors header, however it is read."""

import math
from collections.abc import Mapping
from typing import Any

from loratools.errors import FormatError, shorten
from loratools.io.dtypes import BITS

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 64
#: Every size and every position is less than this.
MAX_SIZE = 2**63


def checked_metadata(metadata: object, where: str) -> Mapping[str, str]:
    """The metadata of a header, which may be missing, as a mapping.

    Raises:
        FormatError: the metadata is not an object of strings.
    """
    if metadata is None:
        # MLX writes null for none.
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(f"{where}: __metadata__ must map strings to strings")
    return metadata


def check_kind(name: str, dtype: object, shape: Any, where: str) -> None:
    """Check that a dtype is known, and that a shape is a list of at most 64 sizes.

    Raises:
        FormatError: either of them is not.
    """
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FormatError(f"{where}: {shorten(name)}: unknown dtype {dtype!r:.40}", tensor=name)
    if not are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise FormatError(
            f"{where}: {shorten(name)}: the shape is not a list of sizes", tensor=name
        )


def are_sizes(values: object) -> bool:
    """Whether a JSON value is a list of sizes: integers from 0 to 2**63 - 1."""
    # type() and not isinstance(): true and false are ints to Python, and not to the format.
    if type(values) is not list:
        return False
    for value in values:  # noqa: SIM110 (twice as fast as `all`, at two calls a tensor)
        if type(value) is not int or not 0 <= value < MAX_SIZE:
            return False
    return True


def checked_nbytes(name: str, dtype: str, shape: tuple[int, ...], where: str) -> int:
    """The number of bytes that a tensor takes.

    Raises:
        FormatError: the number is not whole, or too large.
    """
    bits = BITS[dtype] * math.prod(shape)
    # Other readers multiply size by size, and overflow before they come to a zero.
    if (bits or math.prod(size or 1 for size in shape)) >= 8 * MAX_SIZE:
        raise FormatError(f"{where}: {shorten(name)}: the size overflows 64 bits", tensor=name)
    if bits % 8:
        raise FormatError(
            f"{where}: {shorten(name)}: {dtype} {list(shape)} does not fill bytes", tensor=name
        )
    return bits // 8
