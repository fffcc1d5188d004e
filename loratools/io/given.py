"""Tensors and arrays that a user gives, as plain tensors of torch."""

from typing import TYPE_CHECKING

from loratools.errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def plain_tensor(where: str, given: "Tensor | NDArray[np.generic]") -> "Tensor":
    """The numbers of a tensor or an array in the CPU's memory, copied only if they have to be.

    Raises:
        UnsupportedError: its numbers are not there one by one, or it is not of numbers. `where` is
            the beginning of the message.
    """
    import numpy as np

    if isinstance(given, np.ndarray):
        return _of_array(where, given)
    if given.is_meta:
        raise UnsupportedError(
            f"{where}: a tensor on the device meta, which has no values", hint="load them first"
        )
    if given.is_quantized:
        raise UnsupportedError(f"{where}: a quantized tensor", hint="give its dequantize()")
    if str(given.layout) != "torch.strided":
        raise UnsupportedError(f"{where}: a sparse tensor", hint="give its to_dense()")
    return given.detach().cpu().contiguous()


def _of_array(where: str, array: "NDArray[np.generic]") -> "Tensor":
    import numpy as np
    import torch

    # torch takes no other order of bytes and no negative strides, and warns of arrays that cannot
    # be written, such as those of a file that is mapped to memory.
    native = np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    try:
        return torch.from_numpy(native)
    except TypeError:
        raise UnsupportedError(
            f"{where}: an array of {array.dtype}, which torch does not know",
            hint="give a tensor, or an array of float32",
        ) from None
