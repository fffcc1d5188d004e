"""Some rows of a stored tensor, or its columns, as a tensor of their own.

In another layout of a model, a tensor may be rows of a fused one, in another order even, or have
its axes exchanged.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from loratools.io.dtypes import nbytes, to_torch
from loratools.io.source import Source, Stored, transposed

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Picked:
    """Runs of rows of a stored tensor, each from a first to a last row, one after another.

    With `is_transposed`, the runs are all rows of a matrix, and its columns become rows.
    """

    stored: Stored
    runs: tuple[tuple[int, int], ...]
    is_transposed: bool = False

    @property
    def name(self) -> str:
        """The name of the stored tensor in its file."""
        return self.stored.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The name of the stored tensor in its file."""
        return self.stored.keys

    @property
    def dtype(self) -> str:
        """The dtype of the stored tensor."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of these rows and the shape of one, or the numbers of columns and rows."""
        if self.is_transposed:
            return self.stored.shape[::-1]
        return (sum(last - first for first, last in self.runs), *self.stored.shape[1:])

    @property
    def nbytes(self) -> int:
        """The size of these rows in bytes."""
        return nbytes(self.dtype, self.shape)

    def read(self) -> "Tensor":
        """All of these rows."""
        return self.read_rows(0, self.shape[0])

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`, counted from the first one of these; no others are read."""
        import torch

        rows = torch.empty((end - begin, *self.shape[1:]), dtype=to_torch(self.dtype))
        self.read_rows_into(rows, begin)
        return rows

    def read_rows_into(self, buffer: "Tensor", begin: int) -> None:
        """Fill a contiguous `buffer` of the stored dtype with the rows from `begin` on."""
        end = begin + len(buffer)
        if self.is_transposed:
            buffer.copy_(self.stored.read_columns(begin, end).T)
            return
        for own, first, last in self.places():
            at, stop = max(begin, own), min(end, own + last - first)
            if at < stop:
                piece = buffer[at - begin : stop - begin]
                self.stored.read_rows_into(piece, first + at - own)

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Yield where each run begins in this tensor, and its first and last stored row."""
        own = 0
        for first, last in self.runs:
            yield own, first, last
            own += last - first

    def forget(self) -> None:
        """Say that these rows will not be read again soon; see `InputFile.forget`."""
        row_bytes = self.stored.nbytes // max(1, self.stored.shape[0])
        for first, last in self.runs:
            begin = self.stored.begin
            self.stored.file.forget(begin + first * row_bytes, begin + last * row_bytes)


def stored_axes(source: Source) -> Source:
    """A matrix whose axes are exchanged, as it is stored."""
    if isinstance(source, Picked) and source.is_transposed:
        return source.stored
    return transposed(source)
