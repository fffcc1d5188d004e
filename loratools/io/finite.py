"""Whether stored numbers are finite, by their exponents: fast, and without torch."""

from loratools.io.file import InputFile
from loratools.io.header import TensorInfo

#: Stays in a core's cache.
_BLOCK_BYTES = 2**18
#: The integers that hold a number, all its bits but the sign, and those of an infinity; a NaN has
#: more of them.
_INFINITIES = {
    "F64": ("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
}


def holds_nonfinite(file: InputFile, tensor: TensorInfo) -> bool:
    """Whether a tensor has a NaN or an infinity; False for dtypes that have neither or are codes.

    Raises:
        StorageError: it cannot be read.
    """
    if tensor.dtype not in _INFINITIES:
        return False
    buffer = bytearray(min(_BLOCK_BYTES, tensor.nbytes))
    for begin in range(tensor.begin, tensor.end, _BLOCK_BYTES):
        del buffer[tensor.end - begin :]
        file.read_into(memoryview(buffer), begin)
        if _may_hold(buffer, tensor.dtype) and _holds(buffer, tensor.dtype):
            return True
    return False


def _may_hold(numbers: bytearray, dtype: str) -> bool:
    """By their highest bytes alone, so that numpy need not be imported, which takes longer."""
    integers, _, infinity = _INFINITIES[dtype]
    width = int(integers[-1])
    highest = numbers[width - 1 :: width]
    least = infinity >> 8 * (width - 1)
    return any(byte in highest or byte + 128 in highest for byte in range(least, 128))


def _holds(numbers: bytearray, dtype: str) -> bool:
    import numpy as np

    integers, magnitude, infinity = _INFINITIES[dtype]
    return bool((np.frombuffer(numbers, integers) & magnitude).max() >= infinity)
