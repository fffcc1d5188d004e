"""Tensors that are computed from other sources when they are read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from loratools.io.dtypes import computed, to_torch
from loratools.io.source import Reshaped, Source, Stored, Transposed

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Computed:
    """A tensor computed from others each time it is read, and rounded once to its dtype."""

    sources: tuple[Source, ...]
    dtype: str
    shape: tuple[int, ...]
    compute: "Callable[[Sequence[Tensor]], Tensor]"

    @property
    def is_rearranged(self) -> bool:
        """Whether its elements are those of its sources in other places, with zeros around them."""
        return isinstance(self.compute, _Rearranging | _Joining)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all sources that the tensor is computed from."""
        return tuple(key for source in self.sources for key in source.keys)

    def read(self) -> "Tensor":
        """The computed tensor."""
        return self.compute([source.read() for source in self.sources]).to(to_torch(self.dtype))

    def read_rows(self, begin: int, end: int) -> "Tensor":
        """Rows `begin` to `end`; the whole tensor is computed for them."""
        return self.read()[begin:end]


@final
@dataclass(frozen=True)
class _Rearranging:
    """The `compute` of `rearranged`: a class, so that such tensors can be recognised."""

    move: "Callable[[Tensor], Tensor]"

    def __call__(self, tensors: "Sequence[Tensor]") -> "Tensor":
        (tensor,) = tensors
        return self.move(tensor)


def rearranged(
    source: Source, shape: tuple[int, ...], move: "Callable[[Tensor], Tensor]"
) -> Computed:
    """The elements of a tensor in other places, as in a block-diagonal matrix; all others are 0."""
    return Computed((source,), source.dtype, shape, _Rearranging(move))


@final
@dataclass(frozen=True)
class _Joining:
    """The `compute` of `joined`: a class, so that such tensors can be recognised."""

    move: "Callable[..., Tensor]"

    def __call__(self, tensors: "Sequence[Tensor]") -> "Tensor":
        return self.move(*tensors)


def joined(
    sources: Sequence[Source], shape: tuple[int, ...], move: "Callable[..., Tensor]"
) -> Computed:
    """The elements of several tensors in one, each once, with zeros around them.

    It has the dtype of the first, so all have to have the same one.
    """
    return Computed(tuple(sources), sources[0].dtype, shape, _Joining(move))


@final
@dataclass(frozen=True)
class _Taking:
    """The `compute` of `taken`."""

    rows: tuple[int, ...]

    def __call__(self, tensors: "Sequence[Tensor]") -> "Tensor":
        return tensors[0][list(self.rows)]


def taken(source: Source, rows: tuple[int, ...]) -> Computed:
    """Chosen rows of a tensor, in this order."""
    return Computed((source,), source.dtype, (len(rows), *source.shape[1:]), _Taking(rows))


@final
@dataclass(frozen=True)
class _Product:
    """The `compute` of `multiplied`: a class, so that a product of a product can be recognised."""

    factor: float

    def __call__(self, tensors: "Sequence[Tensor]") -> "Tensor":
        return tensors[0].double() * self.factor


def multiplied(source: Source, factor: float) -> Source:
    """A tensor times a number, in float64 and rounded once; the source itself for the number 1.

    Products of products are one product, so that nothing is rounded in between.
    """
    if isinstance(source, Computed) and isinstance(source.compute, _Product):
        (inner,) = source.sources
        return multiplied(inner, source.compute.factor * factor)
    if factor == 1:
        return source
    return Computed((source,), computed(source.dtype), source.shape, _Product(factor))


@final
@dataclass(frozen=True)
class _Cast:
    """The `compute` of `cast`."""

    dtype: str

    def __call__(self, tensors: "Sequence[Tensor]") -> "Tensor":
        import torch

        from loratools.io.rounding import round_to_nearest

        rounded = torch.empty(tensors[0].shape, dtype=to_torch(self.dtype))
        round_to_nearest(tensors[0], rounded)
        return rounded


def cast(source: Source, dtype: str) -> Source:
    """The same numbers rounded once to another dtype; the source itself if it has that dtype."""
    if source.dtype == dtype:
        return source
    return Computed((source,), dtype, source.shape, _Cast(dtype))


def same_numbers(source: Source) -> Source:
    """The innermost source with the same elements, before any that moves them or adds zeros."""
    if isinstance(source, Reshaped | Transposed):
        return same_numbers(source.source)
    if isinstance(source, Computed) and isinstance(source.compute, _Rearranging):
        return same_numbers(source.sources[0])
    return source


def stored_elements(source: Source) -> int:
    """The number of elements in the file; a rearranged tensor may have more, which are zeros."""
    if type(source) is Stored:  # as nearly all are
        return math.prod(source.shape)
    inner = same_numbers(source)
    if isinstance(inner, Computed) and inner.is_rearranged:
        return sum(map(stored_elements, inner.sources))
    return math.prod(inner.shape)
