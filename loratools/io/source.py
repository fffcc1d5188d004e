"""A tensor that can be read when it is needed: its keys, dtype and shape are known before.

Adapters are made of sources, so that a header is enough to describe one, and a merge holds the
factors of one weight at a time.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

from loratools.io.dtypes import computed, nbytes, to_torch
from loratools.io.file import InputFile
from loratools.io.header import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


_FIRST_BYTES, _COMPARED_BYTES = 2**16, 2**20


class Source(Protocol):
    """A tensor not yet read."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the stored tensors it is made of."""
        ...

    @property
    def dtype(self) -> str:
        """The stored dtype, by its safetensors name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape `read` gives."""
        ...

    def read(self) -> "Tensor":
        """The whole tensor, in its stored dtype."""
        ...

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Entries `begin` to `end` of the first dimension."""
        ...


@final
class Stored(NamedTuple):
    """A tensor in a safetensors file."""

    file: InputFile
    info: TensorInfo

    @property
    def keys(self) -> tuple[str, ...]:
        """Its name in the file."""
        return (self.info.name,)

    @property
    def dtype(self) -> str:
        """Its dtype in the file."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file."""
        return self.info.shape

    def read(self) -> "Tensor":
        """The whole tensor."""
        return self._read_bytes(self.info.begin, self.shape)

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Some rows: only their bytes are read."""
        row_bytes = self.info.nbytes // max(1, self.shape[0])
        return self._read_bytes(self.info.begin + begin * row_bytes, (end - begin, *self.shape[1:]))

    def read_rows_into(self, buffer: "Tensor", begin: int) -> None:
        """Fill a contiguous `buffer` of the stored dtype with the elements from row `begin` on."""
        row_bytes = self.info.nbytes // max(1, self.shape[0] if self.shape else 1)
        self.file.read_into(as_bytes(buffer), self.info.begin + begin * row_bytes)

    def read_columns(self, begin: int, end: int) -> "Tensor":
        """Some columns of a matrix: one read a row, so that a wide matrix need not be held."""
        import torch

        rows, columns = self.shape
        element = self.info.nbytes // max(1, rows * columns)
        tensor = torch.empty((rows, end - begin), dtype=to_torch(self.dtype))
        for row in range(rows):
            offset = self.info.begin + (row * columns + begin) * element
            self.file.read_into(as_bytes(tensor[row]), offset)
        return tensor

    def _read_bytes(self, offset: int, shape: tuple[int, ...]) -> "Tensor":
        import torch

        tensor = torch.empty(shape, dtype=to_torch(self.dtype))
        self.file.read_into(as_bytes(tensor), offset)
        return tensor


@final
@dataclass(frozen=True)
class Held:
    """A tensor that is in memory already."""

    key: str
    tensor: "Tensor"
    dtype: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The name it was given."""
        return (self.key,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)

    def read(self) -> "Tensor":
        """The tensor itself: not to be written to."""
        return self.tensor

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """A view of some rows."""
        return self.tensor[begin:end]


@final
@dataclass(frozen=True)
class Reshaped:
    """The same elements in another shape with the same first dimension."""

    source: Source
    shape: tuple[int, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of what is reshaped."""
        return self.source.keys

    @property
    def dtype(self) -> str:
        """The dtype of what is reshaped."""
        return self.source.dtype

    def read(self) -> "Tensor":
        """The whole, reshaped."""
        return self.source.read().reshape(self.shape)

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Some rows, reshaped."""
        return self.source.read_rows(begin, end).reshape(end - begin, *self.shape[1:])


@final
@dataclass(frozen=True)
class Transposed:
    """A matrix with its axes swapped."""

    source: Source

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of what is transposed."""
        return self.source.keys

    @property
    def dtype(self) -> str:
        """The dtype of what is transposed."""
        return self.source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Columns, rows."""
        rows, columns = self.source.shape
        return columns, rows

    def read(self) -> "Tensor":
        """The whole, transposed."""
        return self.source.read().T

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Some rows, which are columns of what is stored."""
        if isinstance(self.source, Stored):
            return self.source.read_columns(begin, end).T
        return self.read()[begin:end]


@final
@dataclass(frozen=True)
class Derived:
    """A tensor computed from one source, read whole: a block-diagonal expansion, for one."""

    source: Source
    shape: tuple[int, ...]
    compute: "Callable[[Tensor], Tensor]"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of what it is computed from."""
        return self.source.keys

    @property
    def dtype(self) -> str:
        """The dtype of what it is computed from."""
        return self.source.dtype

    def read(self) -> "Tensor":
        """The computed tensor."""
        return self.compute(self.source.read())

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Some rows of the computed tensor."""
        return self.read()[begin:end]


@final
@dataclass(frozen=True)
class Computed:
    """A tensor computed from others each time it is read, and rounded once to its dtype."""

    sources: tuple[Source, ...]
    dtype: str
    shape: tuple[int, ...]
    compute: "Callable[[Sequence[Tensor]], Tensor]"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all that it is computed from."""
        return tuple(key for source in self.sources for key in source.keys)

    def read(self) -> "Tensor":
        """The computed tensor."""
        return self.compute([source.read() for source in self.sources]).to(to_torch(self.dtype))

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Some rows of the computed tensor."""
        return self.read()[begin:end]


@final
@dataclass(frozen=True)
class _Product:
    """What `multiplied` computes."""

    factor: float

    def __call__(self, tensors: "Sequence[Tensor]") -> "Tensor":
        return tensors[0].double() * self.factor


def multiplied(source: Source, factor: float) -> Source:
    """A tensor times a number, in float64, rounded once; itself where the number is 1.

    Products of products are one product, so that nothing is rounded in between.
    """
    if isinstance(source, Computed) and isinstance(source.compute, _Product):
        (inner,) = source.sources
        return multiplied(inner, source.compute.factor * factor)
    if factor == 1:
        return source
    return Computed((source,), computed(source.dtype), source.shape, _Product(factor))


#: Sources that have the elements of another one, in other places.
_VIEWS = (Reshaped, Transposed, Derived)


def stored_elements(source: Source) -> int:
    """The number of elements in the file, which a computed tensor may have more of."""
    if type(source) is Stored:  # as nearly all are
        return math.prod(source.info.shape)
    while isinstance(source, _VIEWS):
        source = source.source
    return math.prod(source.shape)


def flattened(source: Source) -> Source:
    """As a matrix: the first dimension, and all others in one."""
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


def as_bytes(tensor: "Tensor") -> memoryview:
    """The memory of a contiguous tensor."""
    import torch

    # Flattened first: a 0-d tensor cannot be seen as bytes.
    return memoryview(tensor.flatten().view(torch.uint8).numpy().data)


def widened(tensor: "Tensor") -> "Tensor":
    """An 8-bit float as float16, which has all its values and which torch can add up."""
    is_narrow = tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1
    return tensor.half() if is_narrow else tensor


def is_finite(tensor: "Tensor") -> bool:
    """Whether there is no NaN and no infinity. A finite sum has finite terms, others may too."""
    tensor = widened(tensor)
    return math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())


def is_zero(source: Source) -> bool:
    """Whether every number is zero. Read in steps that grow, up to the first one that is not."""
    while isinstance(source, _VIEWS):
        source = source.source  # the same numbers in other places, among zeros
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

    Read in steps that grow, for most that differ do so near the beginning.
    """
    if one is other:
        return True
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if isinstance(one, Stored) and isinstance(other, Stored):
        return _same_stored_bytes(one, other)
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


def _same_stored_bytes(one: Stored, other: Stored) -> bool:
    """The same without torch, which does not have every dtype."""
    begin, step = 0, _FIRST_BYTES
    while begin < one.info.nbytes:
        count = min(step, one.info.nbytes - begin)
        found = (each.file.read(each.info.begin + begin, count) for each in (one, other))
        if next(found) != next(found):
            return False
        begin, step = begin + count, min(2 * step, _COMPARED_BYTES)
    return True


def _are_equal(one: "Tensor", other: "Tensor") -> bool:
    """Bit by bit: a NaN equals itself, and 0 is not -0."""
    import torch

    integers = (torch.uint8, torch.int16, torch.int32, torch.int64)
    bits = next(dtype for dtype in integers if dtype.itemsize == one.dtype.itemsize)
    return torch.equal(one.flatten().view(bits), other.flatten().view(bits))
