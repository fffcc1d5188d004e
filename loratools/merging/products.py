"""The inner loop of a merge whose changes are products of factors, as one call.

Python lets one thread run at a time. An operation of torch takes some ten microseconds here, and a
thread that comes back from one waits for its turn about as long, so threads that call torch piece
by piece are hardly faster than one. TorchScript runs the whole loop without Python. It is
deprecated: where torch has it no more, the same function runs as Python, with the same bits.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from loratools.deltas import Product
from loratools.io.rounding import round_to_odd
from loratools.merging.fidelity import Fidelity


def add_products(
    stored: Tensor,
    rounded: Tensor,
    products: Sequence[Product],
    first: int,
    memory: tuple[Tensor, Tensor],
    *,
    moved: bool,
) -> Fidelity | None:
    """Add products to the rows from `first` on, round to nearest, and measure the result.

    `stored` and `rounded` are (rows, columns), before and after, each in its own dtype. `memory` is
    for a piece, in the dtype of the computation: (rows, columns), and two of them in one tensor.

    Returns None where the numbers are too large or too small to be measured in this dtype: the
    result is right, and has to be measured by other means.
    """
    total = Fidelity(moved=moved)
    downs = [product.down for product in products]
    rows, whole = len(stored), len(stored) // len(memory[0]) * len(memory[0])
    for begin, end in ((0, whole), (whole, rows)):  # whole pieces, then what is left
        if begin == end:
            continue
        count = min(end - begin, len(memory[0]))
        ups = [p.up[first - p.begin + begin : first - p.begin + end] for p in products]
        before, vectors = memory[0][:count], memory[1][:, :count].contiguous()
        blocks = stored[begin:end], rounded[begin:end]
        if vectors.dtype == torch.float64 and rounded.element_size() == 2:
            measured = before.view(torch.float32).view(vectors.shape)
            bits = vectors.view(torch.int64)
            sums, has_moved = _add_to_16_bits(*blocks, ups, downs, vectors, bits, measured, moved)
        else:
            sums, has_moved = _add(*blocks, ups, downs, before, vectors, moved)
        found = Fidelity(sums[3], sums[0], sums[0] + sums[1], has_moved)
        if not found.is_in_range and any(map(torch.any, ups)):
            return None
        total += found
    return total


def _loop(
    stored: Tensor,
    rounded: Tensor,
    ups: list[Tensor],
    downs: list[Tensor],
    before: Tensor,
    vectors: Tensor,
    moved: bool,
) -> tuple[list[float], bool]:
    """The products of update and error (see `fidelity.py`), and whether a number has moved.

    They are summed in a tensor: reading one number of it takes as long as an operation.
    """
    update, value, flat = vectors[0], vectors[1], vectors.flatten(1)
    gram = torch.zeros((2, 2), dtype=before.dtype)
    for top in range(0, stored.size(0), before.size(0)):
        bottom = top + before.size(0)
        result = rounded[top:bottom]
        before.copy_(stored[top:bottom])
        torch.mm(ups[0][top:bottom], downs[0], out=update)
        for up, down in zip(ups[1:], downs[1:]):  # noqa: B905 (TorchScript has no `strict`)
            update.addmm_(up[top:bottom], down)
        torch.add(before, update, out=value)
        result.copy_(value)
        if not moved:
            moved = not torch.equal(before.to(result.dtype), result)
        value.copy_(result).sub_(before).sub_(update)
        gram.addmm_(flat, flat.t())
    sums: list[float] = gram.double().flatten().tolist()
    return sums, moved


def _loop_to_16_bits(
    stored: Tensor,
    rounded: Tensor,
    ups: list[Tensor],
    downs: list[Tensor],
    vectors: Tensor,
    bits: Tensor,
    measured: Tensor,
    moved: bool,
) -> tuple[list[float], bool]:
    """The same, computed in float64 and measured in float32, which is a quarter faster.

    `bits` are those of `vectors`, in the same memory; `measured` is update and error.
    """
    update, value, flat = vectors[0], vectors[1], measured.flatten(1)
    before = torch.empty_like(measured[0])
    gram = torch.zeros((2, 2), dtype=measured.dtype)
    for top in range(0, stored.size(0), value.size(0)):
        bottom = top + value.size(0)
        result = rounded[top:bottom]
        before.copy_(stored[top:bottom])
        torch.mm(ups[0][top:bottom], downs[0], out=update)
        for up, down in zip(ups[1:], downs[1:]):  # noqa: B905 (TorchScript has no `strict`)
            update.addmm_(up[top:bottom], down)
        measured[0].copy_(update)
        value.copy_(before).add_(update)
        round_to_odd(bits[1], bits[0])
        result.copy_(value)
        if not moved:
            moved = not torch.equal(before.to(result.dtype), result)
        measured[1].copy_(result).sub_(before).sub_(measured[0])
        gram.addmm_(flat, flat.t())
    sums: list[float] = gram.double().flatten().tolist()
    return sums, moved


def _compiled(
    loop: Callable[..., tuple[list[float], bool]],
) -> Callable[..., tuple[list[float], bool]] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)  # as torch 2.14 says the same
            compiled: Callable[..., tuple[list[float], bool]] = torch.jit.script(loop)
            return compiled
    except (AttributeError, RuntimeError, OSError):  # no TorchScript, or no source to compile
        return None


_add = _compiled(_loop) or _loop
_add_to_16_bits = _compiled(_loop_to_16_bits) or _loop_to_16_bits
