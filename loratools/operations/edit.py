"""The kernel of a merge: blocks of a weight read, changed, rounded and measured."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from loratools.deltas import Apply, Span
from loratools.errors import NonFiniteError, shorten
from loratools.io.dtypes import FLOATS
from loratools.operations.merge import PlannedTensor
from loratools.operations.rounding import (
    Fidelity,
    Rounding,
    block_rows,
    compute_dtype,
    measure,
    read_block,
    rows_of,
    spans,
)


def edited_blocks(
    tensor: PlannedTensor, begin: int, end: int, rounding: Rounding
) -> Iterator[tuple[int, Tensor, Fidelity | None]]:
    """The rows `begin` to `end` of an output tensor, in blocks.

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
    finish = rounding.of(tensor.dtype, tensor.name)
    columns = math.prod(tensor.shape[1:])
    for first, last in blocks:
        stored = read_block(tensor.origin, first, last)
        value = stored.to(dtype, copy=True)
        for apply in changes:
            apply(value, first)
        rounded = finish(value, first * columns)
        fidelity = measure(stored, value, rounded) if tensor.changes else None
        if not rounding.allow_nonfinite:
            _check_finite(tensor, rounded, fidelity)
        yield first, rounded, fidelity


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


def _check_finite(tensor: PlannedTensor, rounded: Tensor, fidelity: Fidelity | None) -> None:
    # The sums over a block are finite only if all its elements are; they are there already.
    if fidelity is not None and fidelity.is_finite:
        return
    if tensor.dtype in FLOATS and not bool(torch.isfinite(rounded).all()):
        raise NonFiniteError(
            f"{shorten(tensor.name)}: holds a NaN or an infinity after the merge "
            f"(in {tensor.dtype}); --allow-nonfinite writes it all the same"
        )
