"""Low-rank updates made of others: weighted sums, truncated, padded. Nothing is read yet.

The results are computed when they are written, a tensor at a time, from the stored factors and
small matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from loratools.deltas import Delta
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import LoRA, Rule, Scaling
from loratools.io.source import Computed, Held, Source

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.lowrank.factored import CoreSVD, Factored


@final
@dataclass(frozen=True)
class Sum:
    """Updates of one weight, each with a coefficient: that of its product of factors.

    The scaling of an update is part of its coefficient. Factors of the result have the dtype
    `dtype`.
    """

    terms: tuple[tuple[float, LoRA], ...]
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight as a matrix."""
        _, lora = self.terms[0]
        return lora.up.shape[0], lora.down.shape[1]

    @property
    def rank(self) -> int:
        """The rank of the concatenated factors."""
        return sum(lora.rank for _, lora in self.terms)

    @property
    def scaling(self) -> float:
        """What stands before the factors of the result: the largest coefficient, 1 if all are 0."""
        return max((coefficient for coefficient, _ in self.terms), key=abs) or 1.0

    def read(self) -> "Factored":
        """The sum as one product, in float64."""
        from loratools.lowrank.factored import Factored

        coefficients = [coefficient for coefficient, _ in self.terms]
        up = _columns([lora.up.read() for _, lora in self.terms], coefficients)
        return Factored(up, _rows([lora.down.read() for _, lora in self.terms]))

    def truncated(self, svd: "CoreSVD", rank: int) -> LoRA:
        """Its best approximation of a rank, with zeros where it has fewer components than that.

        `svd` is that of `read()`.
        """
        scaling = self.scaling
        coefficients = [coefficient for coefficient, _ in self.terms]
        root = math.sqrt(abs(scaling))  # both factors get the same norms
        left = svd.left[:, :rank] * (math.copysign(1, scaling) / root)
        right = svd.right[:rank] / root
        up = Computed(
            tuple(lora.up for _, lora in self.terms),
            self.dtype,
            (self.shape[0], rank),
            partial(_mixed_up, coefficients=coefficients, left=left, rank=rank),
        )
        down = Computed(
            tuple(lora.down for _, lora in self.terms),
            self.dtype,
            (rank, self.shape[1]),
            partial(_mixed_down, right=right, rank=rank),
        )
        return self._lora(up, down)

    def concatenated(self, rank: int | None = None) -> LoRA:
        """All factors side by side; as many zeros after them as `rank` asks for.

        What the coefficients have in common stays before the factors, so that nothing is rounded
        where they are equal.
        """
        rank = self.rank if rank is None else rank
        ratios = [coefficient / self.scaling for coefficient, _ in self.terms]
        ups, downs = zip(*((lora.up, lora.down) for _, lora in self.terms), strict=True)
        if ratios == [1] and rank == self.rank:
            return self._lora(ups[0], downs[0])
        stack_up = partial(_stacked_up, coefficients=ratios, rank=rank)
        stack_down = partial(_stacked_down, rank=rank)
        return self._lora(
            Computed(ups, self.dtype, (self.shape[0], rank), stack_up),
            Computed(downs, self.dtype, (rank, self.shape[1]), stack_down),
        )

    def _lora(self, up: Source, down: Source) -> LoRA:
        _, first = self.terms[0]
        rules = {lora.scaling.rule for _, lora in self.terms}
        rule = first.scaling.rule if len(rules) == 1 else "rank"
        return LoRA(up, down, scaling_of(self.scaling, down.shape[0], rule), first.shape)


def sum_of(updates: Sequence[tuple[float, LoRA]]) -> Sum:
    """Updates with weights, in a dtype that holds the factors of all."""
    return Sum(
        terms=tuple((weight * lora.scaling.value, lora) for weight, lora in updates),
        dtype=widest([source.dtype for _, lora in updates for source in lora.sources]),
    )


def held(product: "Factored", shape: tuple[int, ...]) -> LoRA:
    """Factors in memory as the update of a weight of this shape, with a scaling of 1."""
    rank = product.down.shape[0]
    up, down = Held("up", product.up, "F64"), Held("down", product.down, "F64")
    return LoRA(up, down, scaling_of(1.0, rank, "rank"), shape)


def scaling_of(value: float, rank: int, rule: Rule) -> Scaling:
    """The scaling of this value for factors of this rank."""
    unit = Scaling(1.0, rank, rule, "assumed")
    return replace(unit, alpha=value / unit.value)


def with_low_rank(delta: Delta, lora: LoRA) -> Delta:
    """The same change with another low-rank update in it."""
    if isinstance(delta, DoRA | KaSA):
        return replace(delta, lora=lora)
    return lora


def widest(dtypes: Sequence[str]) -> str:
    """The one dtype of all, or else one that holds each of them exactly."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return "F64" if "F64" in dtypes else "F32"


def _columns(ups: "Sequence[Tensor]", coefficients: Sequence[float]) -> "Tensor":
    import torch

    scaled = [up.double() * c for up, c in zip(ups, coefficients, strict=True)]
    return torch.cat(scaled, dim=1)


def _rows(downs: "Sequence[Tensor]") -> "Tensor":
    import torch

    return torch.cat([down.double() for down in downs])


def _mixed_up(
    ups: "Sequence[Tensor]", coefficients: Sequence[float], left: "Tensor", rank: int
) -> "Tensor":
    return _padded(_columns(ups, coefficients) @ left, rank, 1)


def _mixed_down(downs: "Sequence[Tensor]", right: "Tensor", rank: int) -> "Tensor":
    return _padded(right @ _rows(downs), rank, 0)


def _stacked_up(ups: "Sequence[Tensor]", coefficients: Sequence[float], rank: int) -> "Tensor":
    return _padded(_columns(ups, coefficients), rank, 1)


def _stacked_down(downs: "Sequence[Tensor]", rank: int) -> "Tensor":
    return _padded(_rows(downs), rank, 0)


def _padded(matrix: "Tensor", rank: int, dimension: int) -> "Tensor":
    """With zeros up to this many columns (1) or rows (0)."""
    import torch

    missing = rank - matrix.shape[dimension]
    if not missing:
        return matrix
    shape = list(matrix.shape)
    shape[dimension] = missing
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=dimension)
