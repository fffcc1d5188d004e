"""The spending of a budget is the optimum, or says how far from it it can be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loratools.lowrank import budget as module
from loratools.lowrank.budget import spend


def best_by_table(gains: tuple[np.ndarray, ...], costs: tuple[int, ...], budget: int) -> float:
    """The largest total for each budget, target by target: exact, and slow."""
    best = [0] * (budget + 1)
    for series, cost in zip(gains, costs, strict=True):
        sums = [0, *np.cumsum(series).tolist()]
        best = [
            max(best[left - t * cost] + value for t, value in enumerate(sums) if t * cost <= left)
            for left in range(budget + 1)
        ]
    return best[budget]


def total(gains: tuple[np.ndarray, ...], counts: tuple[int, ...]) -> float:
    return sum(float(series[:count].sum()) for series, count in zip(gains, counts, strict=True))


series = st.lists(st.integers(1, 50), max_size=8).map(
    lambda values: np.array(sorted(values, reverse=True), dtype=float)
)


@given(st.lists(st.tuples(series, st.integers(1, 25)), min_size=1, max_size=6), st.integers(0, 250))
def test_no_spending_gains_more(targets: list[tuple[np.ndarray, int]], budget: int) -> None:
    gains, costs = zip(*targets, strict=True)
    found = spend(gains, costs, budget)
    assert sum(c * t for c, t in zip(costs, found.counts, strict=True)) <= budget
    assert total(gains, found.counts) == best_by_table(gains, costs, budget)
    assert found.gap == 0


@given(st.lists(st.tuples(series, st.integers(1, 25)), min_size=1, max_size=6), st.integers(0, 250))
def test_a_search_cut_short_is_within_its_gap(
    targets: list[tuple[np.ndarray, int]], budget: int
) -> None:
    gains, costs = zip(*targets, strict=True)
    nodes, module._NODES = module._NODES, 1
    try:
        found = spend(gains, costs, budget)
    finally:
        module._NODES = nodes
    missed = best_by_table(gains, costs, budget) - total(gains, found.counts)
    # Bounds are sums of at most 48 gains below 50, each rounded.
    assert missed <= found.gap + 48 * 50 * 48 * 2**-52


def test_a_whole_model_is_spent_on_to_the_optimum() -> None:
    """400 targets of 128 values, ten shapes; the bound is that of fractions."""
    rng = np.random.default_rng(0)
    shapes = rng.integers(300, 9000, 10)
    costs = [int(shapes[i % 10]) for i in range(400)]
    gains = [np.sort(rng.lognormal(0, 3, 128))[::-1].copy() for _ in costs]
    found = spend(gains, costs, 128 * sum(costs) // 5)
    assert found.gap == 0
    assert sum(c * t for c, t in zip(costs, found.counts, strict=True)) <= 128 * sum(costs) // 5
