"""How adapters go together: angles between their updates, and where their signs differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter
from loratools.deltas import factors_of
from loratools.names.grouping import pattern_of
from loratools.reshaping.factors import sum_of
from loratools.running.parallel import Map

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.deltas.lora import LoRA

#: Signs are compared on so many rows of each weight, evenly spread.
_ROWS = 16


@final
@dataclass(frozen=True, eq=False)
class Angles:
    """Some targets' updates, compared pair by pair; all are n × n in float64.

    Attributes:
        count: how many targets.
        products: inner products, added over the targets; those of an update are 0 where its
            factors cancel each other out up to rounding.
        opposed: in how many of the entries looked at two have different signs,
        compared: and in how many neither is zero.
    """

    count: int
    products: "Tensor"
    opposed: "Tensor"
    compared: "Tensor"

    @property
    def is_nothing_left(self) -> bool:
        """Whether the result, which comes last, is zero, and not all that it was made of is."""
        squares = self.products.diagonal()
        return bool(squares[-1] == 0) and bool((squares[:-1] > 0).any())

    def cosine(self, one: int, other: int) -> float | None:
        """Of the angle between two, from -1 to 1; None where one of them is zero, or too large."""
        squares = self.products[one, one].item(), self.products[other, other].item()
        norms = math.sqrt(squares[0]) * math.sqrt(squares[1])
        cosine = self.products[one, other].item() / norms if norms else math.nan
        return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None

    def conflict(self, one: int, other: int) -> float | None:
        """The share of entries with different signs; None where none has any."""
        compared = self.compared[one, other].item()
        return self.opposed[one, other].item() / compared if compared else None

    def __add__(self, other: "Angles") -> "Angles":
        """Of the targets of both."""
        return Angles(
            self.count + other.count,
            self.products + other.products,
            self.opposed + other.opposed,
            self.compared + other.compared,
        )


@final
@dataclass(frozen=True)
class Similarity:
    """Of groups of targets whose names differ only in numbers; the result has the last number."""

    groups: Mapping[str, Angles]

    @property
    def total(self) -> Angles | None:
        """Of all targets; None where there are none."""
        angles = list(self.groups.values())
        return sum(angles[1:], angles[0]) if angles else None

    def to_json(self) -> list[dict[str, Any]]:
        """A row for each group; matrices are those of the inputs, with the result last."""
        return [{"targets": name, **_json(angles)} for name, angles in self.groups.items()]


def measure_similarity(adapters: Sequence[Adapter], result: Adapter, each: Map = map) -> Similarity:
    """Compare the low-rank updates of adapters with each other and with the result.

    Products are exact, from the factors; signs are those of some rows of each weight.
    """
    everything = (*adapters, result)
    targets = [target for target, update in result.updates.items() if factors_of(update.delta)]
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
    # The inner product of two is a sum over their block of this matrix.
    entries = gram_matrix(ups) * gram_matrix(downs.T) * scales.outer(scales)
    ranks = torch.tensor([lora.rank if lora else 0 for lora in loras])
    owner = torch.repeat_interleave(torch.arange(len(loras)), ranks)
    blocks = torch.nn.functional.one_hot(owner, len(loras)).double()
    products = blocks.T @ entries @ blocks
    # The bound of rounding for sums of such lengths, from the norms of the products of rank 1.
    norms = blocks.T @ entries.diagonal().clamp(min=0).sqrt()
    noise = torch.finfo(torch.float64).eps * sum(ups.shape + downs.shape) * norms.square()
    is_there = (products.diagonal() > noise).double()
    opposed, compared = _signs(ups, downs, scales, ranks.tolist())
    return Angles(1, products * is_there.outer(is_there), opposed, compared)


def _factors(adapter: Adapter, target: str) -> "LoRA | None":
    update = adapter.updates.get(target)
    return factors_of(update.delta) if update else None


def _signs(
    ups: "Tensor", downs: "Tensor", scales: "Tensor", ranks: Sequence[int]
) -> "tuple[Tensor, Tensor]":
    """In how many entries of some rows the signs of two differ, and in how many both have one."""
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


def _json(angles: Angles) -> dict[str, Any]:
    numbers = range(len(angles.products))
    return {
        "count": angles.count,
        "cosine": [[angles.cosine(a, b) for b in numbers] for a in numbers],
        "sign_conflict": [[angles.conflict(a, b) for b in numbers] for a in numbers],
    }
