"""The kernel of a merge: blocks of a weight read, changed, rounded and measured."""

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from loratools.deltas import Apply, Span
from loratools.errors import NonFiniteError, shorten
from loratools.io.blocks import PIECE_ELEMENTS, block_rows, read_block, rows_of, spans
from loratools.io.dtypes import to_torch
from loratools.io.rounding import Rounding, compute_dtype
from loratools.io.source import Source, Stored
from loratools.merging.fidelity import Fidelity, measure
from loratools.merging.plan import PlannedTensor

#: Blocks are kept and used again: the kernel hands out new pages more slowly than we compute.
_buffers = threading.local()

#: So small a share of a change that cannot be made by itself could vanish beside a float32.
_FAINT = 2.0**-8


def edited_blocks(
    tensor: PlannedTensor, begin: int, end: int, rounding: Rounding
) -> Iterator[tuple[int, Tensor, Fidelity | None]]:
    """The rows `begin` to `end` of an output tensor, in blocks that last until the next is made.

    Each with the index of its first row and, where an adapter changes it, how much of the update
    survived the rounding.

    Raises:
        NonFiniteError: a result is not finite, unless `rounding` allows that.
    """
    blocks = spans(begin, end, block_rows(tensor.shape))
    if tensor.dtype == tensor.origin.dtype and not tensor.changes:
        for first, last in blocks:
            yield first, read_block(tensor.origin, first, last), None
        return
    columns = math.prod(tensor.shape[1:])
    kernel = _Kernel(tensor, begin, end, rounding)
    for first, last in blocks:
        stored = _read(tensor.origin, first, (last - first, columns))
        rounded = _buffer("rounded", to_torch(tensor.dtype), (last - first, columns))
        fidelity = Fidelity()
        for top, bottom in spans(0, last - first, max(1, PIECE_ELEMENTS // max(1, columns))):
            fidelity += kernel(stored[top:bottom], rounded[top:bottom], first + top)
        if not (tensor.changes and fidelity.is_finite) and not rounding.allow_nonfinite:
            _check_finite(tensor, rounded)
        yield first, rounded, fidelity if tensor.changes else None


@final
class _Kernel:
    """Changes rows of a tensor between `begin` and `end`, and rounds them into others."""

    def __init__(self, tensor: PlannedTensor, begin: int, end: int, rounding: Rounding) -> None:
        self.is_additive = all(change.delta.additive is not None for change in tensor.changes)
        self.dtype = compute_dtype(tensor.origin.dtype, tensor.dtype)
        is_faint = any(0 < abs(change.strength) < _FAINT for change in tensor.changes)
        if is_faint and not self.is_additive:
            self.dtype = torch.float64
        self.changes = _bind(tensor, begin, end, self.dtype)
        self.finish = rounding.of(tensor.name)
        self.moved = False

    def __call__(self, stored: Tensor, rounded: Tensor, first: int) -> Fidelity:
        """Compute the rows from `first` on, and measure what the rounding leaves of the update."""
        before = _buffer("before", self.dtype, stored.shape).copy_(stored)
        position = first * stored.shape[1]
        if not self.changes:
            self.finish(before, rounded, position)
            return Fidelity()
        vectors = _buffer("vectors", self.dtype, (2, *stored.shape))
        update, value = vectors
        if self.is_additive:
            # By itself: in a sum with a far larger weight, an update is rounded before its time.
            self._apply(update.zero_(), first)
            torch.add(before, update, out=value)
        else:
            self._apply(value.copy_(before), first)
            torch.sub(value, before, out=update)
        self.finish(value, rounded, position)
        # Asked until it is so, which for nearly every update is the first time.
        self.moved = self.moved or self._moves(before, rounded, position)
        return replace(measure(before, rounded, vectors), moved=self.moved)

    def _moves(self, before: Tensor, rounded: Tensor, position: int) -> bool:
        """Whether any number is another than the base's, rounded in the same way."""
        without = _buffer("without", rounded.dtype, rounded.shape)
        self.finish(before, without, position)
        return not torch.equal(without, rounded)

    def _apply(self, block: Tensor, first: int) -> None:
        for apply in self.changes:
            apply(block, first)


def _bind(tensor: PlannedTensor, begin: int, end: int, dtype: torch.dtype) -> tuple[Apply, ...]:
    """The changes of a tensor, each seeing the weight as those before it leave it."""
    bound: tuple[Apply, ...] = ()
    for change in tensor.changes:
        blocks = partial(_blocks_before, tensor, dtype, bound)
        span = Span(begin, end, dtype, blocks)
        bound = (*bound, change.delta.bind(span, change.strength))
    return bound


def _blocks_before(
    tensor: PlannedTensor, dtype: torch.dtype, changes: tuple[Apply, ...]
) -> Iterator[tuple[int, Tensor]]:
    for first, last in spans(0, rows_of(tensor.shape), block_rows(tensor.shape)):
        block = read_block(tensor.origin, first, last).to(dtype, copy=True)
        for apply in changes:
            apply(block, first)
        yield first, block


def _read(source: Source, begin: int, shape: tuple[int, int]) -> Tensor:
    if not isinstance(source, Stored):
        return read_block(source, begin, begin + shape[0])
    block = _buffer("stored", to_torch(source.dtype), shape)
    source.read_rows_into(block, begin)
    return block


def _buffer(use: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Memory for a block, the same for each use by this thread."""
    count = math.prod(shape)
    held: Tensor | None = getattr(_buffers, use, None)
    if held is None or held.dtype != dtype or len(held) < count:
        held = torch.empty(count, dtype=dtype)
        setattr(_buffers, use, held)
    return held[:count].view(shape)


def _check_finite(tensor: PlannedTensor, rounded: Tensor) -> None:
    # A finite sum has finite terms. A sum may overflow though they are finite; extremes do not.
    if math.isfinite(rounded.sum()) or all(math.isfinite(v) for v in rounded.aminmax()):
        return
    raise NonFiniteError(
        f"{shorten(tensor.name)}: holds a NaN or an infinity after the merge "
        f"(in {tensor.dtype}); --allow-nonfinite writes it all the same"
    )
