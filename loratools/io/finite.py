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
    import numpy as np

    integers, magnitude, infinity = _INFINITIES[tensor.dtype]
    buffer = np.empty(min(_BLOCK_BYTES, tensor.nbytes), dtype=np.uint8)
    for begin in range(tensor.begin, tensor.end, _BLOCK_BYTES):
        block = buffer[: min(_BLOCK_BYTES, tensor.end - begin)]
        file.read_into(block.data, begin)
        numbers = block.view(integers)
        if np.bitwise_and(numbers, magnitude, out=numbers).max() >= infinity:
            return True
    return False
