"""One budget spent on many falling series of gains, at the best total: an integer program.

Targets of equal cost form a class, inside which the largest gains come first. What is left to
decide is one count a class. That is found by branch and bound: the bound is the same problem with
fractions allowed, whose optimum takes gains by gain / cost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A bound this near to the best found, relative to the gain of everything, is rounding.
_ROUNDING = 1e-14
#: Expanded at most, each by a few array operations of about 20 µs.
_NODES = 5000


@final
@dataclass(frozen=True)
class Spending:
    """How many units each target gets.

    Attributes:
        counts: units, in the order of the targets.
        gap: no other spending gains more than this above it; 0 where it is the optimum.
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
        """The same without the first `low` units and those from `high` on."""
        gains = self.gains[low:high]
        return _Class(self.cost, gains, _sums(gains), self.owners[low:high])


def spend(gains: Sequence[Floats], costs: Sequence[int], budget: int) -> Spending:
    """The counts of the largest total gain whose cost is at most `budget`.

    `gains[i]` are those of the successive units of target i, falling and positive; a unit costs
    `costs[i]`. Ties go to the earlier target.
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
    """The classes that have units, the dearest first: small change is left for the last."""
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
    """Counts of the classes and the gap."""
    bound = _Bound(classes)
    if bound.cost[-1] <= budget:
        return [len(each.gains) for each in classes], 0.0
    first = _greedy(classes, bound, budget)
    value = sum(float(each.sums[t]) for each, t in zip(classes, first, strict=True))
    gap = bound(np.array([budget]))[0].item() - value
    price = bound.price(budget)
    # A unit that is worth more than its price by the gap is in every better solution, and one that
    # is worth less by the gap in none: only those between are open.
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
    """The largest gain of some classes where fractions of units are allowed, by budget."""

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
        """For each budget; only multiples of the common divisor of all costs can be spent."""
        whole = budgets // self._divisor * self._divisor
        gain: Floats = np.interp(whole, self.cost, self.gain)
        return gain

    def price(self, budget: int) -> float:
        """The gain / cost of the unit that is taken in part, or would be next."""
        at = int(np.searchsorted(self.cost, budget, side="right"))
        return float((self.gain[at] - self.gain[at - 1]) / (self.cost[at] - self.cost[at - 1]))


def _greedy(classes: list[_Class], bound: _Bound, budget: int) -> list[int]:
    """The whole units that the bound takes, then what fits."""
    whole = int(np.searchsorted(bound.cost, budget, side="right")) - 1
    counts: list[int] = np.bincount(bound.kinds[:whole], minlength=len(classes)).tolist()
    left = budget - int(bound.cost[whole])
    for i, each in enumerate(classes):
        more = min(left // each.cost, len(each.gains) - counts[i])
        counts[i] += more
        left -= more * each.cost
    return counts


def _branch(classes: list[_Class], budget: int, start: list[int]) -> tuple[list[int], float]:
    """The best counts, at least as good as `start`, depth first; and how far from a bound."""
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
            if gained + each.sums[most] > value + margin:
                best, value = [*counts, most], gained + each.sums[most]
            continue
        units = np.arange(most + 1)
        lefts = left - units * each.cost
        uppers = gained + each.sums[: most + 1] + bounds[len(counts)](lefts)
        order = np.argsort(uppers, kind="stable")
        nodes += [
            (uppers[t], [*counts, int(t)], int(lefts[t]), gained + each.sums[t])
            for t in order[uppers[order] > value + margin]
        ]
    return best, max([0.0, *(upper - value for upper, *_ in nodes)])
