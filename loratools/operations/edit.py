"""The kernel of a merge: blocks of a weight read, changed, rounded and measured."""

import math
import threading
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from loratools.deltas import Apply, Span
from loratools.errors import NonFiniteError, shorten
from loratools.io.dtypes import to_torch
from loratools.io.source import Source, Stored
from loratools.operations.merge import PlannedTensor
from loratools.operations.rounding import (
    Fidelity,
    Rounding,
    block_rows,
    compute_dtype,
    measure,
    measured_rows,
    read_block,
    rows_of,
    spans,
)

#: Blocks are kept and used again: the kernel hands out new pages more slowly than we compute.
_buffers = threading.local()


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
    dtype = compute_dtype(tensor.origin.dtype, tensor.dtype)
    changes = _bind(tensor, begin, end, dtype)
    finish = rounding.of(tensor.name)
    columns = math.prod(tensor.shape[1:])
    for first, last in blocks:
        shape = (last - first, columns)
        stored = _read(tensor.origin, first, shape)
        value = _buffer("value", dtype, shape).copy_(stored)
        for apply in changes:
            apply(value, first)
        rounded = _buffer("rounded", to_torch(tensor.dtype), shape)
        finish(value, rounded, first * columns)
        if not rounding.allow_nonfinite:
            _check_finite(tensor, rounded)
        yield first, rounded, _measure(tensor, stored, value, rounded)


def _measure(
    tensor: PlannedTensor, stored: Tensor, value: Tensor, rounded: Tensor
) -> Fidelity | None:
    if not tensor.changes:
        return None
    rows = value.shape[0]
    some = measured_rows(tensor.shape, rows)
    scratch = _buffer("scratch", value.dtype, (some, value.shape[1]))
    return measure(stored[:some], value[:some], rounded[:some], scratch) * (rows / some)


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


def _buffer(use: str, dtype: torch.dtype, shape: tuple[int, int]) -> Tensor:
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
