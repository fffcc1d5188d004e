"""A tensor of one number: read, and rounded to a dtype, without torch."""

import math
import struct
from collections.abc import Mapping
from functools import cache

from loratools.io.file import InputFile
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
#: The 8-bit floats without infinities: the number of fraction bits, the exponent's bias, and the
#: codes of NaN.
_SMALL = {
    "F8_E4M3": (3, 7, (0x7F, 0xFF)),
    "F8_E4M3FNUZ": (3, 8, (0x80,)),
    "F8_E5M2FNUZ": (2, 16, (0x80,)),
}
SCALARS = (*_CODES, "BF16", "F8_E5M2", *_SMALL)


def read_scalar(source: Source) -> float:
    """The number in a tensor of one element, whose dtype must be one of `SCALARS`."""
    if not isinstance(source, Stored):
        return float(source.read().item())
    data = source.file.read(source.begin, source.nbytes)
    return _decode(data, source.dtype)


def read_scalars(sources: Mapping[str, Source]) -> dict[str, float]:
    """The numbers in many tensors of one element, as `read_scalar` reads each, by the same names.

    Those in one file are read together.
    """
    numbers = {n: read_scalar(s) for n, s in sources.items() if not isinstance(s, Stored)}
    files: dict[InputFile, dict[str, Stored]] = {}
    for name, source in sources.items():
        if isinstance(source, Stored):
            files.setdefault(source.file, {})[name] = source
    for file, stored in files.items():
        read = file.read_each((source.begin, source.nbytes) for source in stored.values())
        for (name, source), data in zip(stored.items(), read, strict=True):
            numbers[name] = _decode(data, source.dtype)
    return numbers


def rounded(number: float, dtype: str) -> float:
    """The nearest number that `dtype` has; through float32 for 16-bit floats, as torch rounds.

    A number too large for an 8-bit float becomes its largest finite one. A number that an integer
    dtype does not have is not rounded, but becomes NaN.
    """
    if dtype.startswith("F8"):
        finite = [value for value in _values(dtype) if math.isfinite(value)]
        return min(finite, key=lambda value: abs(value - number))
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
    if dtype.startswith("F8"):
        return _values(dtype)[data[0]]
    if dtype == "BF16":
        data, dtype = b"\0\0" + data, "F32"
    (number,) = struct.unpack(_CODES[dtype], data)
    return float(number)


@cache
def _values(dtype: str) -> tuple[float, ...]:
    """The numbers that the codes of an 8-bit float mean, in the order of the codes."""
    if dtype == "F8_E5M2":  # the upper half of a float16
        return tuple(_decode(bytes((0, code)), "F16") for code in range(256))
    width, bias, nans = _SMALL[dtype]
    return tuple(math.nan if c in nans else _value(c, width, bias) for c in range(256))


def _value(code: int, width: int, bias: int) -> float:
    """The number that the code of an 8-bit float means, with `width` bits for the fraction."""
    sign, exponent, fraction = code >> 7, (code & 0x7F) >> width, code & (1 << width) - 1
    significand = fraction + (1 << width if exponent else 0)
    return math.ldexp(-significand if sign else significand, max(exponent, 1) - bias - width)


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
