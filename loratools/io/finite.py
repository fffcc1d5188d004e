"""Whether stored numbers are finite, by their exponents: fast, and without torch."""

from typing import TYPE_CHECKING

from loratools.io.file import InputFile
from loratools.io.header import TensorInfo

if TYPE_CHECKING:
    import numpy as np

_BLOCK_BYTES = 2**20
#: The bits of the exponent, all set in infinities and NaNs, and the integers that hold a number.
_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


def holds_nonfinite(file: InputFile, tensor: TensorInfo) -> bool:
    """Whether a tensor has a NaN or an infinity; False for dtypes that have neither or are codes.

    Raises:
        StorageError: it cannot be read.
    """
    if tensor.dtype not in _EXPONENTS:
        return False
    import numpy as np

    integers, exponent = _EXPONENTS[tensor.dtype]
    buffer = np.empty(_BLOCK_BYTES, dtype=np.uint8)
    for begin in range(tensor.begin, tensor.end, _BLOCK_BYTES):
        block = buffer[: min(_BLOCK_BYTES, tensor.end - begin)]
        file.read_into(block.data, begin)
        if _has(block.view(integers), exponent):
            return True
    return False


def _has(numbers: "np.ndarray", exponent: int) -> bool:
    return bool(((numbers & exponent) == exponent).any())
