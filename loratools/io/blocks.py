"""Stored tensors in blocks of rows, the unit in which they are read, computed and written."""

import math
from collections.abc import Iterator

from jaxtyping import Shaped
from torch import Tensor

from loratools.io.source import Source, forget_rows

#: Elements of a block, which is read and written at once.
BLOCK_ELEMENTS = 2**20
#: Elements that are computed at once: three times 256 KB of float32, which stay in a core's cache.
PIECE_ELEMENTS = 2**16


def rows_of(shape: tuple[int, ...]) -> int:
    """The number of rows of a tensor seen as a matrix: its first dimension, 1 for a scalar."""
    return shape[0] if shape else 1


def block_rows(shape: tuple[int, ...]) -> int:
    """The number of rows in a block, by the shape alone: bytes must not depend on the workers."""
    columns = math.prod(shape[1:])
    return max(1, BLOCK_ELEMENTS // max(1, columns))


def spans(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """Split the range from `begin` to `end` into pieces of at most `step`."""
    for first in range(begin, end, step):
        yield first, min(first + step, end)


def read_block(source: Source, begin: int, end: int) -> Shaped[Tensor, "rows columns"]:
    """Rows `begin` to `end` of a source as a matrix, in the stored dtype."""
    block = source.read_rows(begin, end) if source.shape else source.read()
    return block.reshape(end - begin, -1)


def stored_norm(source: Source) -> float:
    """The Frobenius norm of a tensor, read a block at a time and summed in float64."""
    squares = 0.0
    for begin, end in spans(0, rows_of(source.shape), block_rows(source.shape)):
        squares += read_block(source, begin, end).double().square().sum().item()
    forget_rows(source, 0, rows_of(source.shape))
    return math.sqrt(squares)
