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
from loratools.merging.fidelity import LEAST_SUM, MOST_SUM, Fidelity


def add_products(
    stored: Tensor,
    rounded: Tensor,
    products: Sequence[Product],
    first: int,
    memory: tuple[Tensor, Tensor],
    *,
    moved: bool,
) -> Fidelity:
    """Add products to the rows from `first` on, round to nearest, and measure the result.

    `stored` and `rounded` are (rows, columns), before and after, each in its own dtype. `memory` is
    for a piece, in the dtype of the computation: (rows, columns), and two of them in one tensor.
    That dtype must not have to be rounded twice: see `round_to_nearest`.
    """
    total = Fidelity(moved=moved)
    downs, limits = [product.down for product in products], (LEAST_SUM, MOST_SUM)
    rows, whole = len(stored), len(stored) // len(memory[0]) * len(memory[0])
    for begin, end in ((0, whole), (whole, rows)):  # whole pieces, then what is left
        if begin == end:
            continue
        count = min(end - begin, len(memory[0]))
        ups = [p.up[first - p.begin + begin : first - p.begin + end] for p in products]
        parts = memory[0][:count], memory[1][:, :count].contiguous()
        total += Fidelity(
            *_add(stored[begin:end], rounded[begin:end], ups, downs, *parts, limits, total.moved)
        )
    return total


def _loop(
    stored: Tensor,
    rounded: Tensor,
    ups: list[Tensor],
    downs: list[Tensor],
    before: Tensor,
    vectors: Tensor,
    limits: tuple[float, float],
    moved: bool,
) -> tuple[float, float, float, bool]:
    """The sums of a `Fidelity`, after each piece of `rounded` was computed as in `edit.py`."""
    error, intended, product = 0.0, 0.0, 0.0
    update, value, flat = vectors[0], vectors[1], vectors.flatten(1)
    for top in range(0, stored.size(0), before.size(0)):
        bottom = top + before.size(0)
        result = rounded[top:bottom]
        before.copy_(stored[top:bottom])
        update.zero_()
        for up, down in zip(ups, downs):  # noqa: B905 (TorchScript has no `strict`)
            update.addmm_(up[top:bottom], down)
        torch.add(before, update, out=value)
        result.copy_(value)
        if not moved:
            moved = not torch.equal(before.to(result.dtype), result)
        value.copy_(result).sub_(before).sub_(update)
        sums: list[float] = torch.mm(flat, flat.t()).double().flatten().tolist()
        is_safe = limits[0] < sums[0] and sums[0] < limits[1] and sums[3] < limits[1]
        if not is_safe and bool(vectors.any()):
            exact: list[float] = torch.mm(flat.double(), flat.double().t()).flatten().tolist()
            sums = exact
        intended += sums[0]
        product += sums[0] + sums[1]
        error += sums[3]
    return error, intended, product, moved


def _compiled() -> "Callable[..., tuple[float, float, float, bool]] | None":
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.script(_loop)
    except (AttributeError, RuntimeError, OSError):  # no TorchScript, or no source to compile
        return None


_add = _compiled() or _loop
