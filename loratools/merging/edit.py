"""The inner loop of a merge: blocks of a weight are read, changed, rounded and measured."""

import math
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from loratools.deltas import Apply, Product, Span, parts_of
from loratools.io.blocks import PIECE_ELEMENTS, block_rows, read_block, rows_of, spans
from loratools.io.direct import buffer_for
from loratools.io.dtypes import to_torch
from loratools.io.rounding import Rounding, compute_dtype
from loratools.io.source import Source, Stored
from loratools.merging.blame import not_finite
from loratools.merging.fidelity import Fidelity, measure
from loratools.merging.originals import taken_back
from loratools.merging.plan import PlannedTensor
from loratools.merging.products import add_products
from loratools.merging.taken_back import TakenBack
from loratools.merging.taking_out import taken_out
from loratools.merging.touched import changing, edges

#: A thread's memory for blocks is used again, since the kernel provides new pages more slowly than
#: we compute.
_buffers = threading.local()

#: At most one thread a core computes piece by piece: Python makes more of them wait for each other.
_in_python = threading.BoundedSemaphore(os.cpu_count() or 1)

#: A change that is not additive is computed as part of the weight. At a strength below this one, it
#: could vanish beside the weight in float32.
_FAINT = 2.0**-8


def edited_blocks(
    tensor: PlannedTensor, begin: int, end: int, rounding: Rounding, position: int = 0
) -> Iterator[tuple[int, Tensor, Fidelity | None]]:
    """The rows `begin` to `end` of an output tensor, in blocks valid until the next one is made.

    `position` is the place of the first of these rows in the output file. Each block comes with the
    index of its first row and, if an adapter may change its rows, with how much of the update
    survived the rounding.

    Raises:
        NonFiniteError: a result is not finite, unless `rounding` allows that.
    """
    blocks = _blocks(tensor, begin, end)
    if tensor.dtype == tensor.origin.dtype and not tensor.changes:
        for first, last in blocks:
            yield first, read_block(tensor.origin, first, last), None
        return
    columns = math.prod(tensor.shape[1:])
    kernel = _Kernel(tensor, begin, end, rounding)
    for first, last in blocks:
        rounded = _output(position, to_torch(tensor.dtype), (last - first, columns))
        stored = _read(tensor.origin, first, rounded)
        position += rounded.nbytes
        fidelity = kernel(stored, rounded, first)
        # A NaN or an infinity shows in the sums of the fidelity, so finite ones save a pass.
        is_known_finite = fidelity is not None and fidelity.is_finite
        if not (is_known_finite or rounding.allow_nonfinite):
            _check_finite(tensor, rounded)
        yield first, rounded, fidelity


def _blocks(tensor: PlannedTensor, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Blocks of rows, cut where a change begins or ends: it has all rows of a block or none."""
    cuts = edges(tensor)
    for first, last in spans(begin, end, block_rows(tensor.shape)):
        yield from pairwise([first, *(row for row in cuts if first < row < last), last])


@final
class _Kernel:
    """Computes the rows of a tensor from `begin` to `end`, piece by piece, and measures them."""

    def __init__(self, tensor: PlannedTensor, begin: int, end: int, rounding: Rounding) -> None:
        self.tensor = tensor
        self.dtype = compute_dtype(tensor.origin.dtype, tensor.dtype)
        is_faint = any(0 < abs(change.strength) < _FAINT for change in tensor.changes)
        if is_faint and not self._is_additive(range(len(tensor.changes))):
            self.dtype = torch.float64
        self.changes = _bind(tensor, begin, end, self.dtype)
        # A loop that rounds to 16 bits takes the base through float32, which float64 does not fit.
        is_cut = tensor.origin.dtype == "F64" and to_torch(tensor.dtype).itemsize == 2
        self.is_simple = rounding.seed is None and not is_cut
        # Only what is rounded to nearest in its own dtype can be what it was before.
        is_countable = rounding.seed is None and tensor.dtype == tensor.origin.dtype
        self.taken_out = taken_out(tensor) if is_countable else frozenset()
        self.finish = rounding.of(tensor.name)
        self.moved: set[tuple[int, ...]] = set()
        self._views: tuple[Tensor, Tensor] | None = None

    def __call__(self, stored: Tensor, rounded: Tensor, first: int) -> Fidelity | None:
        """Compute the rows from `first` on into `rounded`, and measure what is left of the update.

        `stored` has the same rows as they are in the file. All of them are changed by the same
        changes; without any there is nothing to measure, and None is returned.
        """
        numbers = changing(self.tensor, first)
        if not numbers:
            self._convert(stored, rounded, first)
            return None
        found = None
        if products := self._products(first, numbers):
            _, rows = next(self._pieces(stored))
            memory = self._memory((rows, stored.shape[1]))
            moved = numbers in self.moved
            found = add_products(stored, rounded, products, first, memory, moved=moved)
            if found is None:
                stored = _read(self.tensor.origin, first, rounded)  # may have been overwritten
        if found is None:
            found = self._computed(stored, rounded, first, numbers)
        if found.moved:
            self.moved.add(numbers)
        return found

    def _is_additive(self, numbers: Iterable[int]) -> bool:
        return all(self.tensor.changes[n].delta.additive is not None for n in numbers)

    def _pieces(self, block: Tensor) -> Iterator[tuple[int, int]]:
        return spans(0, len(block), max(1, PIECE_ELEMENTS // max(1, block.shape[1])))

    def _convert(self, stored: Tensor, rounded: Tensor, first: int) -> None:
        """Round rows that nothing changes."""
        if stored.dtype == rounded.dtype:
            rounded.copy_(stored)
            return
        with _in_python:
            for top, bottom in self._pieces(stored):
                before, _ = self._memory(stored[top:bottom].shape)
                before.copy_(stored[top:bottom])
                self.finish(before, rounded[top:bottom], (first + top) * stored.shape[1])

    def _products(self, first: int, numbers: tuple[int, ...]) -> list[Product]:
        """The changes of the rows from `first` on, if they are products and no other functions."""
        changes = [part for n in numbers for part in parts_of(self.changes[n])]
        products = [part for part in changes if isinstance(part, Product)]
        is_counted = self.taken_out.intersection(numbers)
        if not self.is_simple or is_counted or len(products) < len(changes):
            return []
        return [product for product in products if product.covers(first)]

    def _computed(
        self, stored: Tensor, rounded: Tensor, first: int, numbers: tuple[int, ...]
    ) -> Fidelity:
        """Apply the changes piece by piece."""
        found = Fidelity(moved=numbers in self.moved)
        with _in_python:
            for top, bottom in self._pieces(stored):
                piece = stored[top:bottom], rounded[top:bottom]
                found += self._piece(*piece, first + top, numbers, moved=found.moved)
        return found

    def _piece(
        self,
        stored: Tensor,
        rounded: Tensor,
        first: int,
        numbers: tuple[int, ...],
        *,
        moved: bool,
    ) -> Fidelity:
        before, vectors = self._memory(stored.shape)
        before.copy_(stored)
        position = first * stored.shape[1]
        update, value = vectors
        if self._is_additive(numbers):
            # Computed apart from the weight: in a sum with a far larger weight, part of the update
            # would be lost to float32 before it is measured.
            self._apply(update.zero_(), first, numbers)
            torch.add(before, update, out=value)
        else:
            self._apply(value.copy_(before), first, numbers)
            torch.sub(value, before, out=update)
        self.finish(value, rounded, position)
        # Compared only until something has moved, which is nearly always at the first piece.
        moved = moved or self._moves(before, rounded, position)
        back = self._taken_back(before, update, first, numbers)
        return replace(measure(before, rounded, vectors, moved=moved), taken_back=back)

    def _taken_back(
        self, before: Tensor, update: Tensor, first: int, numbers: tuple[int, ...]
    ) -> TakenBack | None:
        """Count the originals of elements that an update is taken out of; None if none is."""
        out = tuple(number for number in numbers if number in self.taken_out)
        if not out:
            return None
        if out != numbers:
            update = torch.zeros_like(update)
            self._apply(update, first, out)
        return taken_back(before, update, to_torch(self.tensor.dtype))

    def _memory(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Memory for the stored values, and for two more such blocks.

        All pieces but the last have one shape, and finding the memory again would take a tenth of
        the time of computing a piece.
        """
        if self._views is None or self._views[0].shape != shape:
            before = _buffer("before", self.dtype, shape)
            self._views = before, _buffer("vectors", self.dtype, (2, *shape))
        return self._views

    def _moves(self, before: Tensor, rounded: Tensor, position: int) -> bool:
        """Whether any rounded value differs from the base's value rounded in the same way."""
        without = _buffer("without", rounded.dtype, rounded.shape)
        self.finish(before, without, position)
        return not torch.equal(without, rounded)

    def _apply(self, block: Tensor, first: int, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            self.changes[number](block, first)


def _bind(tensor: PlannedTensor, begin: int, end: int, dtype: torch.dtype) -> tuple[Apply, ...]:
    """The changes of a tensor, each bound to the weight as the changes before it leave it."""
    bound: tuple[Apply, ...] = ()
    for change in tensor.changes:
        blocks = partial(_blocks_before, tensor, dtype, bound)
        span = Span(begin, end, dtype, blocks)
        bound = (*bound, change.delta.bind(span, change.strength))
    return bound


def _blocks_before(
    tensor: PlannedTensor, dtype: torch.dtype, changes: tuple[Apply, ...]
) -> Iterator[tuple[int, Tensor]]:
    """The weight with these changes, for the next one, if that must see all rows it may change."""
    for first, last in _blocks(tensor, 0, rows_of(tensor.shape)):
        numbers = changing(tensor, first)
        if len(changes) not in numbers:
            continue
        block = read_block(tensor.origin, first, last).to(dtype, copy=True)
        for number in numbers[: numbers.index(len(changes))]:
            changes[number](block, first)
        yield first, block


def _read(source: Source, begin: int, rounded: Tensor) -> Tensor:
    """The rows of a source from `begin` on, as many as `rounded` has.

    Stored values of its dtype are read into its own memory: a piece of them is not needed any more
    when the piece is rounded.
    """
    if not isinstance(source, Stored):
        return read_block(source, begin, begin + len(rounded))
    dtype = to_torch(source.dtype)
    is_same = dtype == rounded.dtype
    block = rounded if is_same else _buffer("stored", dtype, tuple(rounded.shape))
    source.read_rows_into(block, begin)
    return block


def _buffer(use: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Memory for a block: one buffer for each use and thread, which is overwritten each time."""
    count = math.prod(shape)
    held: Tensor | None = getattr(_buffers, use, None)
    if held is None or held.dtype != dtype or len(held) < count:
        held = torch.empty(count, dtype=dtype)
        setattr(_buffers, use, held)
    return held[:count].view(shape)


def _output(position: int, dtype: torch.dtype, shape: tuple[int, int]) -> Tensor:
    """Memory for a block that is written to `position` of a file, overwritten each time."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes == 0 or position % dtype.itemsize:
        return _buffer("rounded", dtype, shape)
    return torch.frombuffer(buffer_for(position, nbytes), dtype=dtype).view(shape)


def _check_finite(tensor: PlannedTensor, rounded: Tensor) -> None:
    # A finite sum proves finite terms. One that is not may have overflowed; the extremes cannot.
    if math.isfinite(rounded.sum()) or all(math.isfinite(v) for v in rounded.aminmax()):
        return
    raise not_finite(tensor)
