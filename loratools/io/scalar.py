"""A tensor of one number: read, and rounded to a dtype, without torch."""

import math
import struct

from loratools.io.source import Source, Stored

#: The dtypes that a single number is read from; bfloat16 is the upper half of a float32.
_CODES = {
    "F16": "<e",
    "F32": "<f",
    "F64": "<d",
    "I8": "<b",
    "I16": "<h",
    "I32": "<i",
    "I64": "<q",
    "U8": "<B",
}
SCALARS = (*_CODES, "BF16")


def read_scalar(source: Source) -> float:
    """The number in a tensor of one element, of one of the dtypes in `SCALARS`."""
    if not isinstance(source, Stored):
        return float(source.read().item())
    data = source.file.read(source.info.begin, source.info.nbytes)
    return _decode(data, source.dtype)


def rounded(number: float, dtype: str) -> float:
    """The nearest number that `dtype` has; through float32 for 16-bit floats, as torch rounds.

    Integers are not rounded to: what is not one of the dtype's is NaN.
    """
    if dtype in ("F16", "BF16"):
        number = rounded(number, "F32")
    if dtype == "BF16":
        return _to_bfloat16(number)
    try:
        if dtype.startswith(("I", "U")):
            return float(number) if _holds_integer(number, dtype) else math.nan
        return _decode(struct.pack(_CODES[dtype], number), dtype)
    except OverflowError:
        return math.copysign(math.inf, number)


def _decode(data: bytes, dtype: str) -> float:
    if dtype == "BF16":
        data, dtype = b"\0\0" + data, "F32"
    (number,) = struct.unpack(_CODES[dtype], data)
    return float(number)


def _to_bfloat16(number: float) -> float:
    if not math.isfinite(number):
        return number
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    # To the nearest, ties to even: half of the last bit is added, less one if that bit is 0.
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(value)


def _holds_integer(number: float, dtype: str) -> bool:
    bits = 8 * struct.calcsize(_CODES[dtype])
    low, high = (0, 2**bits) if dtype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return float(number).is_integer() and low <= number < high
