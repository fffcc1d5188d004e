"""Stored tensors in blocks of rows, the unit in which they are read, computed and written."""

import math
from collections.abc import Iterator

from jaxtyping import Shaped
from torch import Tensor

from loratools.io.source import Source

#: Elements of a block, which is read and written at once.
BLOCK_ELEMENTS = 2**20
#: Elements that are computed at once: three times 256 KB of float32, which stay in a core's cache.
PIECE_ELEMENTS = 2**16


def rows_of(shape: tuple[int, ...]) -> int:
    """Rows of a tensor seen as a matrix."""
    return shape[0] if shape else 1


def block_rows(shape: tuple[int, ...]) -> int:
    """Rows of a block: decided by the shape alone, so that bytes do not depend on who computes."""
    columns = math.prod(shape[1:])
    return max(1, BLOCK_ELEMENTS // max(1, columns))


def spans(begin: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    """`begin` to `end` in pieces of `step`."""
    for first in range(begin, end, step):
        yield first, min(first + step, end)


def read_block(source: Source, begin: int, end: int) -> Shaped[Tensor, "rows columns"]:
    """Rows of a source as a matrix, in their stored dtype."""
    block = source.read_rows(begin, end) if source.shape else source.read()
    return block.reshape(end - begin, -1)


def frobenius(source: Source) -> float:
    """The Frobenius norm of a tensor, a block at a time, added up in float64."""
    squares = 0.0
    for begin, end in spans(0, rows_of(source.shape), block_rows(source.shape)):
        squares += read_block(source, begin, end).double().square().sum().item()
    return math.sqrt(squares)
