"""Matrices that are read in blocks of rows, because they may be too large for memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

#: The elements of a block: a million stay in a core's cache.
_BLOCK = 2**20


@final
@dataclass(frozen=True, eq=False)
class RowBlocks:
    """An m × n matrix that is read in blocks of rows, several times.

    Attributes:
        shape: (m, n).
        read: yields pairs of the number of a block's first row and the block, in float32 or
            float64. The blocks begin with row 0, have no gaps, and are the same at each call.
        total: ‖X‖², added up in float64, if it is already known.
    """

    shape: tuple[int, int]
    read: Callable[[], Iterable[tuple[int, Tensor]]]
    total: float | None = None

    @classmethod
    def of(cls, matrix: Float[Tensor, "m n"]) -> "RowBlocks":
        """The blocks of a matrix in memory."""
        m, n = matrix.shape
        rows = _rows(n)
        return cls((m, n), lambda: ((at, matrix[at : at + rows]) for at in range(0, m, rows)))

    def whole(self) -> Float[Tensor, "m n"]:
        """Read the whole matrix into memory."""
        return torch.cat([block for _, block in self.read()])

    def wide(self, device: torch.device) -> Iterator[tuple[int, Tensor]]:
        """Yield the blocks in float64, large ones in parts; each overwrites the one before."""
        size = _rows(self.shape[1])
        space = torch.empty(size, self.shape[1], dtype=torch.float64, device=device)
        for begin, block in self.read():
            for at in range(0, len(block), size):
                rows = block[at : at + size]
                yield begin + at, space[: len(rows)].copy_(rows)


def squares(block: Tensor) -> float:
    """The sum of squares, added in float64: a float32 sum of many numbers loses three digits."""
    wide = block.double().flatten()
    total: float = torch.dot(wide, wide).item()
    return total


def _rows(columns: int) -> int:
    return max(1, _BLOCK // max(1, columns))
