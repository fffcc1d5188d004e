"""Computes the leading part of a difference as balanced factors, in the dtype of the adapter."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from loratools.extracting.difference import Difference, Memory, Norms
from loratools.io.blocks import spans
from loratools.io.dtypes import to_torch
from loratools.io.rounding import round_to_nearest
from loratools.lowrank.ranks import Wanted
from loratools.lowrank.right import right_vectors

_COLUMNS = 2**15


@final
@dataclass(frozen=True, eq=False)
class Principal:
    """Balanced factors of a difference, whose best approximation found is `rows.T @ down`.

    The first r rows of both are the approximation of rank r.

    Attributes:
        rows: (k, m), the transposed `up`.
        down: (k, n).
        values: the falling singular values, in float64, before the factors were rounded.
        norms: the norms of the whole difference and of the weight.
        unsure: the largest error of the lost energy, computed as `norms.change` less the squares
            of all `values`.
        dtype: the dtype of the factors.
    """

    rows: Float[Tensor, "k m"]
    down: Float[Tensor, "k n"]
    values: Float[Tensor, " k"]
    norms: Norms
    unsure: float
    dtype: str


def principal(
    difference: Difference,
    wanted: Wanted,
    *,
    least: float,
    dtype: str,
    seed: int,
    memory: Memory,
    device: str | None = None,
) -> Principal:
    """Compute at least as many leading singular values and vectors of a difference as wanted.

    The result has rank 0 if the relative norm of the difference is below `least`.

    Raises:
        NonFiniteError: one of the tensors has a NaN or an infinity.
    """
    collected: list[Tensor] = []

    def take(begin: int, rows: Tensor) -> None:
        if not collected:
            shape = (len(rows), difference.shape[0])
            collected.append(torch.empty(shape, dtype=difference.dtype))
        collected[0][:, begin : begin + rows.shape[1]] = rows

    with difference.read(memory) as (matrix, norms):
        if norms.relative < least:
            return _nothing(matrix.shape, norms, dtype)
        place = None if device is None else torch.device(device)
        found = right_vectors(matrix, wanted, take, seed=seed, device=place)
    # The values are nearly sorted: those out of order differ by less than the iteration's error.
    values, order = found.values.sort(descending=True, stable=True)
    roots = torch.where(values > 0, values.sqrt(), 1.0)
    rows = collected[0]
    # In place, some columns at a time: with a large vocabulary, a second copy of the rows would set
    # the peak of memory.
    scales = (1 / roots)[:, None].to(rows.dtype)
    for begin, end in spans(0, rows.shape[1], _COLUMNS):
        rows[:, begin:end] = rows[order, begin:end] * scales
    down = (found.vectors[:, order] * roots).T
    return Principal(
        _rounded(rows, dtype), _rounded(down, dtype), values, norms, found.unsure, dtype
    )


def _nothing(shape: tuple[int, int], norms: Norms, dtype: str) -> Principal:
    rows, down = (torch.empty(0, size, dtype=to_torch(dtype)) for size in shape)
    return Principal(rows, down, torch.empty(0, dtype=torch.float64), norms, 0.0, dtype)


def _rounded(values: Tensor, dtype: str) -> Tensor:
    if values.dtype == to_torch(dtype):
        return values
    rounded = torch.empty(values.shape, dtype=to_torch(dtype))
    round_to_nearest(values.contiguous(), rounded)
    return rounded
