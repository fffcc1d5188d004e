"""Whether the values of tensors are finite, zero or equal; no more is read than is needed."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from loratools.io.computed import same_numbers
from loratools.io.dtypes import nbytes
from loratools.io.finite import is_zero_throughout
from loratools.io.source import Source, Stored

if TYPE_CHECKING:
    from torch import Tensor

_FIRST_BYTES, _COMPARED_BYTES = 2**16, 2**20


def widened(tensor: "Tensor") -> "Tensor":
    """A tensor; if of an 8-bit float, as float16, which has all its values and torch can sum."""
    is_narrow = tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1
    return tensor.half() if is_narrow else tensor


def is_finite(tensor: "Tensor") -> bool:
    """Whether a tensor has no NaN and no infinity."""
    tensor = widened(tensor)
    # A finite sum proves finite terms, and is fast. A sum that is not may only have overflowed.
    return math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())


def is_zero(source: Source) -> bool:
    """Whether every element is zero; read in steps that grow, up to the first that is not."""
    source = same_numbers(source)
    if isinstance(source, Stored):
        return all(is_zero_throughout(piece, source.dtype) for piece in _pieces(source))
    if not source.shape:
        return not source.read().any()
    row_bytes = max(1, nbytes(source.dtype, source.shape) // max(1, source.shape[0]))
    begin, step = 0, _FIRST_BYTES
    while begin < source.shape[0]:
        end = min(source.shape[0], begin + max(1, step // row_bytes))
        if source.read_rows(begin, end).any():
            return False
        begin, step = end, min(2 * step, _COMPARED_BYTES)
    return True


def same_bytes(one: Source, other: Source) -> bool:
    """Whether two tensors have the same dtype, shape and bytes.

    They are read in steps that grow, since most tensors that differ do so near the beginning.
    """
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if isinstance(one, Stored) and isinstance(other, Stored):
        # Without torch, which does not have every dtype.
        return all(a == b for a, b in zip(_pieces(one), _pieces(other), strict=True))
    if not one.shape:
        return _are_equal(one.read(), other.read())
    row_bytes = nbytes(one.dtype, one.shape) // max(1, one.shape[0])
    begin, step = 0, _FIRST_BYTES
    while begin < one.shape[0]:
        end = min(one.shape[0], begin + max(1, step // max(1, row_bytes)))
        if not _are_equal(one.read_rows(begin, end), other.read_rows(begin, end)):
            return False
        begin, step = end, min(2 * step, _COMPARED_BYTES)
    return True


def _pieces(stored: Stored) -> Iterator[bytes]:
    """The bytes of a stored tensor, without torch, in pieces that grow."""
    begin, step = stored.begin, _FIRST_BYTES
    while begin < stored.end:
        count = min(step, stored.end - begin)
        yield stored.file.read(begin, count)
        begin, step = begin + count, min(2 * step, _COMPARED_BYTES)


def _are_equal(one: "Tensor", other: "Tensor") -> bool:
    """Whether two tensors are equal bit by bit: a NaN equals itself, and 0 is not -0."""
    import torch

    integers = (torch.uint8, torch.int16, torch.int32, torch.int64)
    bits = next(dtype for dtype in integers if dtype.itemsize == one.dtype.itemsize)
    return torch.equal(one.flatten().view(bits), other.flatten().view(bits))
