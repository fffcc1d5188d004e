"""Tasks for methods, and their formulas' parts in float64, written without loratools' own."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final, TypedDict

import torch
from hypothesis import strategies as st
from torch import Tensor

from loratools.lowrank.factored import Factored
from loratools.methods import MethodOptions, Task


class Tolerance(TypedDict):
    """Of `torch.testing.assert_close`."""

    rtol: float
    atol: float


#: Rounding of float32 and of the products of small factors.
CLOSE: Final[Tolerance] = {"rtol": 2e-6, "atol": 2e-6}


def matrix(values: Sequence[Sequence[float]]) -> Factored:
    """A matrix as the product of itself and the identity."""
    up = torch.tensor(values, dtype=torch.float64)
    return Factored(up, torch.eye(up.shape[1], dtype=torch.float64))


def row(*values: float) -> Factored:
    return matrix([values])


def absent(like: Factored) -> Factored:
    """The update of an adapter that does not change the weight."""
    return Factored(like.up[:, :0], like.down[:0])


def task(
    *updates: Factored, weights: Sequence[float] | None = None, seed: int = 0, strength: float = 1.0
) -> Task:
    return Task("w", tuple(weights or [1.0] * len(updates)), lambda: updates, seed, strength)


def run(method: ModuleType, given: Task, **options: Any) -> Tensor:
    """The result in float64, whatever the method gives."""
    found = method.combine(given, MethodOptions(**options))
    if isinstance(found, tuple):
        parts = zip(found, given.updates, strict=True)
        return torch.stack([c * update.up @ update.down for c, update in parts]).sum(0)
    if isinstance(found, Factored):
        return found.up @ found.down
    assert isinstance(found, Tensor)
    return found.double()


def result(method: ModuleType, *updates: Factored, weights: Any = None, **options: Any) -> Any:
    """The result of small cases, as nested lists."""
    return run(method, task(*updates, weights=weights), **options).tolist()


def normals(seed: int, m: int, n: int, rank: int) -> Factored:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(m, rank, generator=generator), torch.randn(rank, n, generator=generator)
    return Factored(up.double(), down.double())


@st.composite
def updates(draw: st.DrawFn, count: int | None = None) -> tuple[Factored, ...]:
    """Updates of one weight, with ranks from 1."""
    m, n = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    number = draw(st.integers(1, 4)) if count is None else count
    seeds = draw(st.lists(st.integers(0, 2**31), min_size=number, max_size=number, unique=True))
    return tuple(normals(seed, m, n, draw(st.integers(1, 3))) for seed in seeds)


def trimmed(values: Tensor, keep: int, skip: int = 0) -> Tensor:
    """Without all but so many of the largest entries, after some that are skipped."""
    order = values.abs().flatten().argsort(descending=True, stable=True)
    kept = torch.zeros(values.numel(), dtype=torch.float64)
    kept[order[skip : skip + keep]] = 1
    return values * kept.view_as(values)


def disjoint_mean(parts: Sequence[Tensor], votes: Sequence[Tensor] | None = None) -> Tensor:
    """Entry by entry in Python: the mean of those with the sign of the sum of votes."""
    found = torch.zeros_like(parts[0])
    for at in range(found.numel()):
        values = [part.flatten()[at].item() for part in parts]
        total = sum(vote.flatten()[at].item() for vote in votes or parts)
        agreeing = [value for value in values if value * total > 0]
        found.view(-1)[at] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return found
