"""Measures how similar adapters are: angles between their updates, and conflicts of signs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter
from loratools.names.grouping import pattern_of
from loratools.reshaping.factors import sum_of
from loratools.running.share import Map
from loratools.showing.parts import Column, Table, numbers
from loratools.showing.shown import Brief

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.deltas.lora import LoRA

#: The number of rows of each weight on which signs are compared, evenly spread.
_ROWS = 16


@final
@dataclass(frozen=True, eq=False)
class Angles:
    """The updates of n adapters to some targets, compared pair by pair.

    All tensors are n × n in float64.

    Attributes:
        count: the number of targets.
        products: inner products of updates, added over the targets; products with an update whose
            factors cancel each other out up to rounding are 0.
        opposed: the number of compared entries in which the signs of the two updates differ.
        compared: the number of sampled entries in which neither of the two updates is zero.
    """

    count: int
    products: "Tensor"
    opposed: "Tensor"
    compared: "Tensor"

    @property
    def is_nothing_left(self) -> bool:
        """Whether the result, which comes last, is zero although not all of its inputs are."""
        squares = self.products.diagonal()
        return bool(squares[-1] == 0) and bool((squares[:-1] > 0).any())

    def cosine(self, one: int, other: int) -> float | None:
        """The cosine of the angle between two adapters; None if one is zero or overflows."""
        squares = self.products[one, one].item(), self.products[other, other].item()
        norms = math.sqrt(squares[0]) * math.sqrt(squares[1])
        cosine = self.products[one, other].item() / norms if norms else math.nan
        return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None

    def conflict(self, one: int, other: int) -> float | None:
        """The share of compared entries with different signs; None if no entry was compared."""
        compared = self.compared[one, other].item()
        return self.opposed[one, other].item() / compared if compared else None

    def __add__(self, other: "Angles") -> "Angles":
        """Add up the comparisons of two sets of targets."""
        return Angles(
            self.count + other.count,
            self.products + other.products,
            self.opposed + other.opposed,
            self.compared + other.compared,
        )


@final
@dataclass(frozen=True, repr=False)
class Similarity(Brief):
    """The angles of groups of targets whose names differ only in numbers, by pattern.

    The combined result is compared as well, as the last of the adapters.
    """

    groups: Mapping[str, Angles]

    @property
    def total(self) -> Angles | None:
        """The angles over all targets; None if there are no targets."""
        angles = list(self.groups.values())
        return sum(angles[1:], angles[0]) if angles else None

    def table(self, count: int) -> Table:
        """The cosines and opposed signs of `count` inputs, and the cosines with the result."""
        total = self.total
        rows = {**self.groups, **({} if total is None else {"all": total})}
        angles = list(rows.values())
        columns = [Column("targets", [name.removesuffix(".weight") for name in rows])]
        if pairs := list(combinations(range(count), 2)):
            mean = "" if len(pairs) == 1 else ", mean of all pairs"
            cosines = [_mean(row.cosine, pairs) for row in angles]
            columns.append(_numbers("cosine", cosines, f"1 if two adapters do the same{mean}"))
            opposed = [_mean(row.conflict, pairs) for row in angles]
            columns.append(_numbers("opposed", opposed, "share of entries with different signs"))
        for number in range(count):
            legend = "cosine of the result and adapter 1"
            cosines = [row.cosine(number, count) for row in angles]
            heading = f"with {number + 1}"
            columns.append(_numbers(heading, cosines, "" if number else legend))
        return Table(columns, totals=1)

    def to_json(self) -> list[dict[str, Any]]:
        """A row for each group; its matrices have the input adapters in order, the result last."""
        return [{"targets": name, **_json(angles)} for name, angles in self.groups.items()]


def measure_similarity(adapters: Sequence[Adapter], result: Adapter, each: Map = map) -> Similarity:
    """Compare the low-rank updates of adapters with each other and with the result.

    Inner products are computed from the factors, exact up to rounding; signs are compared on some
    rows of each weight.
    """
    everything = (*adapters, result)
    targets = [target for target, update in result.updates.items() if update.delta.factored()]
    groups: dict[str, Angles] = {}
    for target, angles in zip(targets, each(partial(_compare, everything), targets), strict=True):
        pattern = pattern_of(target)
        groups[pattern] = groups[pattern] + angles if pattern in groups else angles
    return Similarity(groups)


def _compare(adapters: Sequence[Adapter], target: str) -> Angles:
    import torch

    from loratools.lowrank.factored import gram_matrix

    loras = [_factors(adapter, target) for adapter in adapters]
    ups, downs, scales = sum_of([(1.0, lora) for lora in loras if lora]).stored()
    # The inner product of two updates is the sum over the block of this matrix with the rows of one
    # and the columns of the other.
    entries = gram_matrix(ups) * gram_matrix(downs.T) * scales.outer(scales)
    ranks = torch.tensor([lora.rank if lora else 0 for lora in loras])
    owner = torch.repeat_interleave(torch.arange(len(loras)), ranks)
    blocks = torch.nn.functional.one_hot(owner, len(loras)).double()
    products = blocks.T @ entries @ blocks
    # An upper bound of the rounding error of these sums, by the norms of the rank-1 products: what
    # is below it counts as zero.
    norms = blocks.T @ entries.diagonal().clamp(min=0).sqrt()
    noise = torch.finfo(torch.float64).eps * sum(ups.shape + downs.shape) * norms.square()
    is_there = (products.diagonal() > noise).double()
    opposed, compared = _signs(ups, downs, scales, ranks.tolist())
    return Angles(1, products * is_there.outer(is_there), opposed, compared)


def _factors(adapter: Adapter, target: str) -> "LoRA | None":
    update = adapter.updates.get(target)
    return update.delta.factored() if update else None


def _signs(
    ups: "Tensor", downs: "Tensor", scales: "Tensor", ranks: Sequence[int]
) -> "tuple[Tensor, Tensor]":
    """Count the sampled entries where the signs of a pair differ, and where neither is zero."""
    import torch

    rows = torch.linspace(0, len(ups) - 1, min(_ROWS, len(ups))).round().long()
    lefts = torch.split(ups[rows].double() * scales, list(ranks), dim=1)
    rights = torch.split(downs, list(ranks))
    # float32 adds up ones exactly, as long as there are fewer than 2²⁴.
    is_signed = torch.zeros(2, len(ranks), len(rows), downs.shape[1])
    for number, (left, right) in enumerate(zip(lefts, rights, strict=True)):
        entries = left @ right.double()
        torch.gt(entries, 0, out=is_signed[0, number])
        torch.lt(entries, 0, out=is_signed[1, number])
    flat = is_signed.flatten(2)
    same = sum(torch.mm(signed, signed.T).double() for signed in flat)
    opposed = torch.mm(flat[0], flat[1].T).double()
    opposed = opposed + opposed.T
    return opposed, same + opposed


def _mean(
    measure: Callable[[int, int], float | None], pairs: Sequence[tuple[int, int]]
) -> float | None:
    """The mean of a measure over the pairs that have one; None where no pair has."""
    values = [value for pair in pairs if (value := measure(*pair)) is not None]
    return math.fsum(values) / len(values) if values else None


def _numbers(heading: str, values: Sequence[float | None], legend: str) -> Column:
    return numbers(heading, ("" if v is None else f"{v:.3f}" for v in values), legend)


def _json(angles: Angles) -> dict[str, Any]:
    numbers = range(len(angles.products))
    return {
        "count": angles.count,
        "cosine": [[angles.cosine(a, b) for b in numbers] for a in numbers],
        "sign_conflict": [[angles.conflict(a, b) for b in numbers] for a in numbers],
    }
