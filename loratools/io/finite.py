"""Whether stored numbers are finite or zero, by their bits: fast, and without torch."""

from loratools.io.file import InputFile
from loratools.io.header import TensorInfo

#: The size of the blocks that are read: small enough to stay in a core's cache.
_BLOCK_BYTES = 2**18
#: Of each dtype, numpy's integers of its width, the mask of all bits but the sign, and the bits of
#: an infinity. Without its sign, a NaN is a larger integer than an infinity.
_INFINITIES = {
    "F64": ("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
}
#: The dtypes that have a negative zero, which is the sign bit alone, and the bytes of one number.
_SIGNED_ZEROS = {
    "F64": 8,
    "F32": 4,
    "C64": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
}


def is_zero_throughout(
    numbers: bytes | bytearray, dtype: str, begin: int = 0, end: int | None = None
) -> bool:
    """Whether all numbers, given by their bytes, are zero; a negative zero is zero, too."""
    end = len(numbers) if end is None else end
    others = end - begin - numbers.count(0, begin, end)
    width = _SIGNED_ZEROS.get(dtype)
    if width and others <= (end - begin) // width:  # they may be sign bits alone
        others -= numbers[begin + width - 1 : end : width].count(0x80)
    return others == 0


def holds_nonfinite(file: InputFile, tensor: TensorInfo) -> bool:
    """Whether a tensor has a NaN or an infinity; False for dtypes that have neither or are codes.

    Raises:
        StorageError: the file cannot be read.
    """
    if tensor.dtype not in _INFINITIES:
        return False
    buffer = bytearray(min(_BLOCK_BYTES, tensor.nbytes))
    for begin in range(tensor.begin, tensor.end, _BLOCK_BYTES):
        del buffer[tensor.end - begin :]
        file.read_into(memoryview(buffer), begin)
        if not is_finite_throughout(buffer, tensor.dtype):
            return True
    return False


def is_finite_throughout(numbers: bytearray, dtype: str) -> bool:
    """Whether no number, given by its bytes in one of `FLOATS`, is a NaN or an infinity."""
    return not (_may_hold(numbers, dtype) and _holds(numbers, dtype))


def _may_hold(numbers: bytearray, dtype: str) -> bool:
    """Whether any highest byte can be that of a NaN or an infinity.

    This needs no numpy, whose import takes longer, and it rules out most tensors.
    """
    integers, _, infinity = _INFINITIES[dtype]
    width = int(integers[-1])
    highest = numbers[width - 1 :: width]
    least = infinity >> 8 * (width - 1)
    return any(byte in highest or byte + 128 in highest for byte in range(least, 128))


def _holds(numbers: bytearray, dtype: str) -> bool:
    import numpy as np

    integers, magnitude, infinity = _INFINITIES[dtype]
    return bool((np.frombuffer(numbers, integers) & magnitude).max() >= infinity)
