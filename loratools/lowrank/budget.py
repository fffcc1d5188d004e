"""Spends one budget on many targets so that the total gain is the largest: an integer program.

Each target has a falling series of gains, one for each unit bought. Targets of equal cost form a
class, inside which the largest gains come first, so only the number of units of each class is left
to decide. Branch and bound finds these numbers; the bound is the same problem with fractions of
units allowed, whose optimum takes the units by falling gain / cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A bound exceeds the best solution only by rounding if it does so by at most this share of the
#: gain of all units.
_ROUNDING = 1e-14
#: The most nodes of the search tree that are expanded, each with a few array operations of about
#: 20 µs.
_NODES = 5000


@final
@dataclass(frozen=True)
class Spending:
    """The number of units that each target gets.

    Attributes:
        counts: units, in the order of the targets.
        gap: the most by which another spending could gain more; 0 for the optimum.
    """

    counts: tuple[int, ...]
    gap: float


@final
@dataclass(frozen=True, eq=False)
class _Class:
    """The units of all targets of one cost, the largest gain first.

    `sums[t]` is the gain of the first t units, and `owners[t]` the target of unit t.
    """

    cost: int
    gains: Floats
    sums: Floats
    owners: NDArray[np.int64]

    def within(self, low: int, high: int) -> "_Class":
        """The class reduced to its units from `low` up to `high`, exclusive."""
        gains = self.gains[low:high]
        return _Class(self.cost, gains, _sums(gains), self.owners[low:high])


def spend(gains: Sequence[Floats], costs: Sequence[int], budget: int) -> Spending:
    """Find the counts with the largest total gain whose cost is at most `budget`.

    `gains[i]` holds the gains of the successive units of target i, falling and positive. Each of
    these units costs `costs[i]`. Of equal gains, the earlier target's is taken first.
    """
    divisor = math.gcd(*costs) or 1
    classes = _classes(gains, [cost // divisor for cost in costs])
    counts = np.zeros(len(gains), np.int64)
    if not classes:
        return Spending((0,) * len(gains), 0.0)
    units, gap = _solve(classes, budget // divisor)
    for each, count in zip(classes, units, strict=True):
        counts += np.bincount(each.owners[:count], minlength=len(gains))
    return Spending(tuple(counts.tolist()), gap)


def _sums(gains: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(gains)])


def _classes(gains: Sequence[Floats], costs: Sequence[int]) -> list[_Class]:
    """The classes that have units, the most expensive first.

    Branching decides the classes in this order. So the units that are decided last are the
    cheapest, which use up a rest of the budget best.
    """
    found = []
    for cost in sorted(set(costs), reverse=True):
        members = [i for i, other in enumerate(costs) if other == cost]
        merged = np.concatenate([gains[i] for i in members])
        owners = np.repeat(members, [len(gains[i]) for i in members])
        order = np.argsort(-merged, kind="stable")
        if len(order):
            found.append(_Class(cost, merged[order], _sums(merged[order]), owners[order]))
    return found


def _solve(classes: list[_Class], budget: int) -> tuple[list[int], float]:
    """The number of units of each class, and the gap as in `Spending`."""
    bound = _Bound(classes)
    if bound.cost[-1] <= budget:
        return [len(each.gains) for each in classes], 0.0
    first = _greedy(classes, bound, budget)
    value = sum(float(each.sums[t]) for each, t in zip(classes, first, strict=True))
    gap = bound(np.array([budget]))[0].item() - value
    price = bound.price(budget)
    # A unit whose gain exceeds its cost at this price by more than the gap is in every better
    # solution, and one that falls short by more than the gap is in none: leaving the first out, or
    # taking the second, would lower the bound below the greedy solution. Only the units between
    # are searched.
    surplus = [each.gains - price * each.cost for each in classes]
    slack = gap + _ROUNDING * bound.gain[-1]
    low = [int((rest > slack).sum()) for rest in surplus]
    high = [int((rest >= -slack).sum()) for rest in surplus]
    open_ = [each.within(*span) for each, *span in zip(classes, low, high, strict=True)]
    left = budget - sum(each.cost * t for each, t in zip(classes, low, strict=True))
    start = [t - fixed for t, fixed in zip(first, low, strict=True)]
    best, gap = _branch(open_, left, start)
    return [t + fixed for t, fixed in zip(best, low, strict=True)], gap


@final
class _Bound:
    """The largest gain of some classes by budget, if fractions of units could be bought."""

    def __init__(self, classes: Sequence[_Class]) -> None:
        costs = np.concatenate([[0], *(np.full(len(c.gains), c.cost) for c in classes)])
        gains = np.concatenate([[0.0], *(each.gains for each in classes)])
        order = np.argsort(-gains[1:] / costs[1:], kind="stable") + 1
        sizes = [len(each.gains) for each in classes]
        self.kinds = np.repeat(range(len(classes)), sizes)[order - 1]
        self.cost = np.concatenate([[0], np.cumsum(costs[order])])
        self.gain = np.concatenate([[0.0], np.cumsum(gains[order])])
        self._divisor = math.gcd(*(each.cost for each in classes)) or 1

    def __call__(self, budgets: NDArray[np.int64]) -> Floats:
        """The bound for each budget."""
        # Whole units can only spend multiples of the common divisor of all costs; rounding the
        # budget down to one tightens the bound.
        whole = budgets // self._divisor * self._divisor
        gain: Floats = np.interp(whole, self.cost, self.gain)
        return gain

    def price(self, budget: int) -> float:
        """The gain / cost of the unit that the bound takes in part, or would take next."""
        at = int(np.searchsorted(self.cost, budget, side="right"))
        return float((self.gain[at] - self.gain[at - 1]) / (self.cost[at] - self.cost[at - 1]))


def _greedy(classes: list[_Class], bound: _Bound, budget: int) -> list[int]:
    """A first solution: the whole units that the bound takes, and further ones that still fit."""
    whole = int(np.searchsorted(bound.cost, budget, side="right")) - 1
    counts: list[int] = np.bincount(bound.kinds[:whole], minlength=len(classes)).tolist()
    left = budget - int(bound.cost[whole])
    for i, each in enumerate(classes):
        more = min(left // each.cost, len(each.gains) - counts[i])
        counts[i] += more
        left -= more * each.cost
    return counts


def _branch(classes: list[_Class], budget: int, start: list[int]) -> tuple[list[int], float]:
    """Search depth first for the best counts, beginning with `start`.

    Return the counts, and the most by which a solution that was not searched could be better.
    """
    bounds = [_Bound(classes[depth:]) for depth in range(1, len(classes))]
    best = start
    value = sum(each.sums[t] for each, t in zip(classes, start, strict=True))
    margin = _ROUNDING * sum(each.sums[-1] for each in classes)
    nodes: list[tuple[float, list[int], int, float]] = [(math.inf, [], budget, 0.0)]
    for _ in range(_NODES):
        if not nodes:
            return best, 0.0
        upper, counts, left, gained = nodes.pop()
        if upper <= value + margin:
            continue
        each = classes[len(counts)]
        most = min(left // each.cost, len(each.gains))
        if len(counts) == len(classes) - 1:
            # All gains are positive, so the last class takes as many units as fit.
            if gained + each.sums[most] > value + margin:
                best, value = [*counts, most], gained + each.sums[most]
            continue
        units = np.arange(most + 1)
        lefts = left - units * each.cost
        uppers = gained + each.sums[: most + 1] + bounds[len(counts)](lefts)
        # The most promising node comes last and is popped next: good solutions that are found
        # early rule out most other nodes.
        order = np.argsort(uppers, kind="stable")
        nodes += [
            (uppers[t], [*counts, int(t)], int(lefts[t]), gained + each.sums[t])
            for t in order[uppers[order] > value + margin]
        ]
    return best, max([0.0, *(upper - value for upper, *_ in nodes)])
