"""A tensor that is read when it is needed; its keys, dtype and shape are known before.

Adapters are made of sources, so that a header is enough to describe one, and a merge holds the
factors of one weight at a time.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

from loratools.io.dtypes import to_torch
from loratools.io.file import InputFile
from loratools.io.header import Header

if TYPE_CHECKING:
    from torch import Tensor


#: What is read of a file is at least a page of it.
_PAGE_BYTES, _READ_BYTES = 2**12, 2**20


class Source(Protocol):
    """A tensor that need not be read yet: one in a file, in memory, or computed from others.

    Its keys, dtype and shape are known without reading, so that adapters are described and merges
    planned from the headers of files. Every factor, magnitude or replaced tensor of an adapter is a
    source. `read` reads all of it each time, and keeps nothing.
    """

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the stored tensors that it is made of."""
        ...

    @property
    def dtype(self) -> str:
        """The stored dtype, by its safetensors name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor that `read` returns."""
        ...

    def read(self) -> "Tensor":
        """The whole tensor, in its stored dtype."""
        ...

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Entries `begin` to `end` of the first dimension."""
        ...


@final
class Stored(NamedTuple):
    """A tensor in a safetensors file: the fields of its `TensorInfo`, and the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: InputFile

    @property
    def keys(self) -> tuple[str, ...]:
        """The name of the tensor in its file."""
        return (self.name,)

    @property
    def nbytes(self) -> int:
        """The size of the tensor in bytes."""
        return self.end - self.begin

    def read(self) -> "Tensor":
        """The whole tensor."""
        return self._read_bytes(self.begin, self.shape)

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`; only their bytes are read."""
        row_bytes = self.nbytes // max(1, self.shape[0])
        return self._read_bytes(self.begin + begin * row_bytes, (end - begin, *self.shape[1:]))

    def read_rows_into(self, buffer: "Tensor", begin: int) -> None:
        """Fill a contiguous `buffer` of the stored dtype with the elements from row `begin` on."""
        row_bytes = self.nbytes // max(1, self.shape[0] if self.shape else 1)
        self.file.read_into(as_bytes(buffer), self.begin + begin * row_bytes)

    def read_columns(self, begin: int, end: int) -> "Tensor":
        """Columns `begin` to `end` of a matrix; the rest of wide rows is never in memory."""
        import torch

        rows, columns = self.shape
        element = self.nbytes // max(1, rows * columns)
        tensor = torch.empty((rows, end - begin), dtype=to_torch(self.dtype))
        if columns * element <= _PAGE_BYTES:
            # A read a row would take as long for each as one of all the rows does.
            step = _READ_BYTES // max(1, columns * element)
            for first in range(0, rows, step):
                last = min(rows, first + step)
                tensor[first:last] = self.read_rows(first, last)[:, begin:end]
            return tensor
        for row in range(rows):
            offset = self.begin + (row * columns + begin) * element
            self.file.read_into(as_bytes(tensor[row]), offset)
        return tensor

    def forget(self) -> None:
        """Say that it will not be read again soon; see `InputFile.forget`."""
        self.file.forget(self.begin, self.end)

    def _read_bytes(self, offset: int, shape: tuple[int, ...]) -> "Tensor":
        import torch

        tensor = torch.empty(shape, dtype=to_torch(self.dtype))
        self.file.read_into(as_bytes(tensor), offset)
        return tensor


def stored_tensors(file: InputFile, header: Header) -> dict[str, Stored]:
    """The tensors of a file by their names, in the order of their bytes."""
    # A named tuple's own constructor is written in Python; this one is in C, and twice as fast.
    make = partial(tuple.__new__, Stored)
    return dict(
        zip(header.columns.names, map(make, zip(*header.columns, repeat(file))), strict=True)
    )


@final
@dataclass(frozen=True)
class Held:
    """A tensor that is in memory already."""

    key: str
    tensor: "Tensor"
    dtype: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The one name that the tensor was given."""
        return (self.key,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(self.tensor.shape)

    def read(self) -> "Tensor":
        """The tensor itself, which must not be written to."""
        return self.tensor

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """A view of the rows `begin` to `end`."""
        return self.tensor[begin:end]


@final
@dataclass(frozen=True)
class Reshaped:
    """The same elements in another shape with the same first dimension."""

    source: Source
    shape: tuple[int, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the source that is reshaped."""
        return self.source.keys

    @property
    def dtype(self) -> str:
        """The dtype of the source that is reshaped."""
        return self.source.dtype

    def read(self) -> "Tensor":
        """The whole tensor, reshaped."""
        return self.source.read().reshape(self.shape)

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`, reshaped."""
        return self.source.read_rows(begin, end).reshape(end - begin, *self.shape[1:])


@final
@dataclass(frozen=True)
class Transposed:
    """A matrix with its axes swapped."""

    source: Source

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the source that is transposed."""
        return self.source.keys

    @property
    def dtype(self) -> str:
        """The dtype of the source that is transposed."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The source's numbers of columns and of rows."""
        rows, columns = self.source.shape
        return columns, rows

    def read(self) -> "Tensor":
        """The whole matrix, transposed."""
        return self.source.read().T

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`, which are columns of the source."""
        if isinstance(self.source, Stored):
            return self.source.read_columns(begin, end).T
        return self.read()[begin:end]


@final
@dataclass(frozen=True)
class Sliced:
    """The rows `begin` to `end` of a tensor: entries of its first dimension."""

    source: Source
    begin: int
    end: int

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the source that the rows are of."""
        return self.source.keys

    @property
    def dtype(self) -> str:
        """The dtype of the source that the rows are of."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of the rows, and the shape of one."""
        return (self.end - self.begin, *self.source.shape[1:])

    def read(self) -> "Tensor":
        """All rows from `begin` to `end`, and no others."""
        return self.source.read_rows(self.begin, self.end)

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`, counted from the first one of the slice."""
        return self.source.read_rows(self.begin + begin, self.begin + end)


@final
@dataclass(frozen=True)
class Named:
    """A tensor under the key that it is to have in a file, which hides what it is computed from.

    So an adapter in memory is counted and changed as it would be after it was saved and opened.
    """

    key: str
    source: Source

    @property
    def keys(self) -> tuple[str, ...]:
        """The one key that it is to have."""
        return (self.key,)

    @property
    def dtype(self) -> str:
        """The dtype of the source."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the source."""
        return self.source.shape

    def read(self) -> "Tensor":
        """The whole tensor."""
        return self.source.read()

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`."""
        return self.source.read_rows(begin, end)


def named(source: Source, key: str) -> Source:
    """The source under this key alone."""
    if isinstance(source, Stored):
        return source._replace(name=key)  # its bytes can still be copied
    return Named(key, source.source if isinstance(source, Named) else source)


def forget_rows(source: Source, begin: int, end: int) -> None:
    """Say that stored rows will not be read again soon; see `InputFile.forget`."""
    if isinstance(source, Stored):
        row_bytes = source.nbytes // max(1, source.shape[0] if source.shape else 1)
        first = source.begin + begin * row_bytes
        source.file.forget(first, first + (end - begin) * row_bytes)


def flattened(source: Source) -> Source:
    """The source as a matrix: its first dimension by all others."""
    shape = source.shape
    return source if len(shape) == 2 else reshaped(source, (shape[0], math.prod(shape[1:])))


def reshaped(source: Source, shape: tuple[int, ...]) -> Source:
    """The same elements in another shape with the same first dimension."""
    while isinstance(source, Reshaped):
        source = source.source
    return source if source.shape == shape else Reshaped(source, shape)


def transposed(source: Source) -> Source:
    """A matrix with its axes swapped."""
    return source.source if isinstance(source, Transposed) else Transposed(source)


def sliced(source: Source, begin: int, end: int) -> Source:
    """The rows `begin` to `end` of a source; the source itself if these are all it has."""
    if (begin, end) == (0, source.shape[0]):
        return source
    if isinstance(source, Stored):
        row_bytes = source.nbytes // source.shape[0]
        return source._replace(
            shape=(end - begin, *source.shape[1:]),
            begin=source.begin + begin * row_bytes,
            end=source.begin + end * row_bytes,
        )
    if isinstance(source, Sliced):
        return Sliced(source.source, source.begin + begin, source.begin + end)
    return Sliced(source, begin, end)


def as_bytes(tensor: "Tensor") -> memoryview:
    """The memory of a contiguous tensor as bytes."""
    import torch

    # Flattened first: a 0-d tensor cannot be seen as bytes.
    return memoryview(tensor.flatten().view(torch.uint8).numpy().data)
