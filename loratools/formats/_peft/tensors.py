"""Converts the shapes of PEFT's stored tensors to those of updates, and back."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from loratools.io.computed import Computed, rearranged
from loratools.io.source import Reshaped, Source

if TYPE_CHECKING:
    from torch import Tensor


def vector(source: Source) -> Source:
    """Magnitudes as a vector: those of a convolution are stored as (1, out, 1, …)."""
    count = math.prod(source.shape)
    return source if source.shape == (count,) else rearranged(source, (count,), _flatten)


def _flatten(tensor: "Tensor") -> "Tensor":
    return tensor.flatten()


def shaped(source: Source, shape: tuple[int, ...]) -> Source:
    """The same numbers in another shape; the stored tensor itself if it already had that shape."""
    if isinstance(source, Reshaped) and source.source.shape == shape:
        return source.source
    if source.shape == shape:
        return source
    return Computed((source,), source.dtype, shape, partial(_reshape, shape=shape))


def _reshape(tensors: "Sequence[Tensor]", shape: tuple[int, ...]) -> "Tensor":
    return tensors[0].reshape(shape)


def in_blocks(source: Source, count: int) -> Source:
    """The block-diagonal factor of a BD-LoRA, which stores its blocks one below the other."""
    rows, columns = source.shape
    compute: Callable[[Tensor], Tensor] = partial(_block_diagonal, count=count)
    return rearranged(source, (rows, columns * count), compute)


def _block_diagonal(stacked: "Tensor", count: int) -> "Tensor":
    rows, columns = stacked.shape
    height = rows // count
    diagonal = stacked.new_zeros(rows, columns * count)
    for block in range(count):
        at = slice(block * height, (block + 1) * height)
        diagonal[at, block * columns : (block + 1) * columns] = stacked[at]
    return diagonal


def spread(up: "Tensor", groups: int, enabled: tuple[bool, ...]) -> "Tensor":
    """The up factor of a `MergedLinear`, as a matrix for the whole fused weight.

    It is block-diagonal over the groups, with rows of zeros for the parts that are not enabled.
    """
    import torch

    diagonal = _block_diagonal(up, groups)
    height = up.shape[0] // sum(enabled)
    is_row = torch.tensor(enabled).repeat_interleave(height)
    spread = up.new_zeros(len(is_row), diagonal.shape[1])
    spread[is_row] = diagonal
    return spread
