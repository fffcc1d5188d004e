"""The first rows of a tensor in a file that is not kept open: a source for very many files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from loratools.io.file import InputFile
from loratools.io.header import TensorInfo
from loratools.io.source import Stored

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class LeadingRows:
    """The first `count` rows of a tensor in a file that is opened when they are read.

    If the tensor has fewer rows, the others are zero.
    """

    path: Path
    info: TensorInfo
    count: int

    @property
    def keys(self) -> tuple[str, ...]:
        """The tensor's name in the file."""
        return (self.info.name,)

    @property
    def dtype(self) -> str:
        """The tensor's dtype in the file."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """`count` rows, of the width in the file."""
        return (self.count, *self.info.shape[1:])

    def read(self) -> "Tensor":
        """All `count` rows."""
        return self.read_rows(0, self.count)

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`; the file is opened for each call."""
        import torch

        stored = self.info.shape[0]
        rows = Stored(*self.info, InputFile(self.path)).read_rows(
            min(begin, stored), min(end, stored)
        )
        if len(rows) == end - begin:
            return rows
        return torch.cat([rows, rows.new_zeros(end - begin - len(rows), *rows.shape[1:])])
