"""Kinds of update that loratools does not have, defined as a plug-in would define them."""

from dataclasses import dataclass, replace
from typing import ClassVar, NoReturn

import pytest
import torch
from torch import Tensor

from loratools.deltas import (
    Additive,
    Apply,
    Delta,
    Span,
    is_whole,
    no_low_rank,
    no_scaling,
    only_whole,
    scaled_by_alpha,
)
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import UnsupportedError
from loratools.io.computed import Computed, multiplied, taken
from loratools.io.source import Source, sliced, transposed
from tests.deltas.computing import held
from tests.deltas.examples import EXAMPLES, FACTORS, change, weight_for


def add(delta: Additive, span: Span, strength: float) -> Apply:
    rows = delta.dense_rows(span.begin, span.end).to(span.dtype) * strength

    def apply(block: Tensor, begin: int) -> None:
        block.add_(rows[begin - span.begin :][: len(block)])

    return apply


@dataclass(frozen=True)
class Spots:
    """Numbers added to single entries of a matrix: an additive kind without factors or alpha."""

    caveat: ClassVar[str | None] = None
    kind: ClassVar[str] = "spots"
    by_rows: ClassVar[bool] = True
    scaling: ClassVar[None] = None
    low_rank: ClassVar[None] = None

    at: tuple[tuple[int, int], ...]
    values: Source
    shape: tuple[int, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.values,)

    @property
    def additive(self) -> "Spots":
        return self

    def nothing(self) -> None:
        return None

    def transposed(self) -> "Spots":
        return replace(self, at=tuple((c, r) for r, c in self.at), shape=self.shape[::-1])

    def rows(self, begin: int, end: int) -> "Spots":
        if is_whole(begin, end, self.shape):
            return self
        found = [n for n, (row, _) in enumerate(self.at) if begin <= row < end]
        if not found:
            raise UnsupportedError("spots: none in these rows")
        at = tuple((self.at[n][0] - begin, self.at[n][1]) for n in found)
        values = taken(self.values, tuple(found))
        return Spots(at, values, (end - begin, *self.shape[1:]))

    def scaled(self, strength: float) -> "Spots":
        return self if strength == 1 else replace(self, values=multiplied(self.values, strength))

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> NoReturn:
        raise no_scaling(self)

    def with_low_rank(self, lora: LoRA) -> NoReturn:
        raise no_low_rank(self)

    def factored(self) -> None:
        return None

    def dense_rows(self, begin: int, end: int) -> Tensor:
        matrix = torch.zeros(self.shape, dtype=torch.float64)
        matrix[tuple(zip(*self.at, strict=True))] = self.values.read().double()
        return matrix[begin:end]

    def bind(self, span: Span, strength: float) -> Apply:
        return add(self, span, strength)


@dataclass(frozen=True)
class Products:
    """dW = scaling * (up1 @ down1) * (up2 @ down2), where the products are multiplied by entry."""

    caveat: ClassVar[str | None] = None
    kind: ClassVar[str] = "products"
    by_rows: ClassVar[bool] = True
    low_rank: ClassVar[None] = None

    ups: tuple[Source, Source]
    downs: tuple[Source, Source]
    scaling: Scaling
    shape: tuple[int, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return (*self.ups, *self.downs)

    @property
    def additive(self) -> "Products":
        return self

    def nothing(self) -> None:
        return None

    def transposed(self) -> "Products":
        ups, downs = (tuple(map(transposed, pair)) for pair in (self.downs, self.ups))
        return Products(ups, downs, self.scaling, self.shape[::-1])  # type: ignore[arg-type]

    def rows(self, begin: int, end: int) -> "Products":
        if is_whole(begin, end, self.shape):
            return self
        one, other = (sliced(up, begin, end) for up in self.ups)
        return replace(self, ups=(one, other), shape=(end - begin, *self.shape[1:]))

    def scaled(self, strength: float) -> "Products":
        return scaled_by_alpha(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "Products":
        first, second = self.ups
        return replace(self, ups=(multiplied(first, factor), second), scaling=scaling)

    def with_low_rank(self, lora: LoRA) -> LoRA:
        return lora

    def factored(self) -> LoRA:
        """Factors of rank r²: every product of a column of one `up` and a column of the other."""
        up = [torch.einsum("ip,iq->ipq", *(s.read().double() for s in self.ups)).flatten(1)]
        down = [torch.einsum("pj,qj->pqj", *(s.read().double() for s in self.downs)).flatten(0, 1)]
        return LoRA(
            Computed(self.ups, "F64", tuple(up[0].shape), lambda _: up[0]),
            Computed(self.downs, "F64", tuple(down[0].shape), lambda _: down[0]),
            replace(self.scaling, alpha=self.scaling.value, rule="direct", times=1),
            self.shape,
        )

    def dense_rows(self, begin: int, end: int) -> Tensor:
        pairs = zip(self.ups, self.downs, strict=True)
        one, other = (up.read().double() @ down.read().double() for up, down in pairs)
        return (self.scaling.value * one * other)[begin:end]

    def bind(self, span: Span, strength: float) -> Apply:
        return add(self, span, strength)


@dataclass(frozen=True)
class Gated:
    """W' = gate * (W + dW), row by row: a kind that holds a LoRA and depends on the weight."""

    caveat: ClassVar[str | None] = "before the gate"
    kind: ClassVar[str] = "gated"
    by_rows: ClassVar[bool] = True
    additive: ClassVar[None] = None

    lora: LoRA
    gate: Source

    @property
    def sources(self) -> tuple[Source, ...]:
        return (*self.lora.sources, self.gate)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lora.shape

    @property
    def scaling(self) -> Scaling:
        return self.lora.scaling

    @property
    def low_rank(self) -> LoRA:
        return self.lora

    def nothing(self) -> None:
        return None

    def transposed(self) -> NoReturn:
        raise NotImplementedError

    def rows(self, begin: int, end: int) -> "Gated":
        if is_whole(begin, end, self.shape):
            return self
        return Gated(self.lora.rows(begin, end), sliced(self.gate, begin, end))

    def scaled(self, strength: float) -> "Gated":
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "Gated":
        return replace(self, lora=self.lora.with_scaling(scaling, factor))

    def factored(self) -> LoRA:
        return self.lora

    def with_low_rank(self, lora: LoRA) -> "Gated":
        return replace(self, lora=lora)

    def bind(self, span: Span, strength: float) -> Apply:
        add, gate = self.lora.bind(span, 1.0), self.gate.read().double()

        def apply(block: Tensor, begin: int) -> None:
            before = block.clone()
            add(block, begin)
            block.mul_(gate[begin : begin + len(block), None])
            block.sub_(before).mul_(strength).add_(before)

        return apply


@dataclass(frozen=True)
class Stretched:
    """W' = W * factor, column by column, like IA3: a kind that is not additive and has no LoRA."""

    caveat: ClassVar[str | None] = None
    kind: ClassVar[str] = "stretched"
    by_rows: ClassVar[bool] = True
    additive: ClassVar[None] = None
    scaling: ClassVar[None] = None
    low_rank: ClassVar[None] = None

    factors: Source
    shape: tuple[int, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.factors,)

    def nothing(self) -> None:
        return None

    def transposed(self) -> NoReturn:
        raise NotImplementedError

    def rows(self, begin: int, end: int) -> "Stretched":
        if is_whole(begin, end, self.shape):
            return self
        return replace(self, shape=(end - begin, *self.shape[1:]))

    def scaled(self, strength: float) -> "Stretched":
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> NoReturn:
        raise no_scaling(self)

    def factored(self) -> None:
        return None

    def with_low_rank(self, lora: LoRA) -> NoReturn:
        raise no_low_rank(self)

    def bind(self, span: Span, strength: float) -> Apply:
        factors = 1 + (self.factors.read().double() - 1) * strength

        def apply(block: Tensor, begin: int) -> None:
            block.mul_(factors)

        return apply


TOYS: dict[str, Delta] = {
    "spots": Spots(((0, 1), (3, 2)), held([4, -2], "spots"), (4, 4)),
    "products": Products(
        ups=(FACTORS.up, held([[1, 2], [0, 1], [1, 0], [-1, 1]], "up2")),
        downs=(FACTORS.down, held([[1, 0, 2, 1], [2, 1, 0, -1]], "down2")),
        scaling=FACTORS.scaling,
        shape=(4, 4),
    ),
    "gated": Gated(FACTORS, held([2, 1, 0, 4], "gate")),
    "stretched": Stretched(held([2, 1, 0, 4], "factors"), (4, 4)),
}

_OWN = {f"{name}-{n}": delta for name, some in EXAMPLES.items() for n, delta in enumerate(some)}
#: Every kind there is, and the toys.
ALL = {**_OWN, **TOYS}
each_kind = pytest.mark.parametrize("delta", ALL.values(), ids=ALL)
#: Enough for a few sums of small numbers in float64.
NEAR = 2.0**-44


def assert_does(delta: Delta, expected: Delta, strength: float = 1.0, near: float = NEAR) -> None:
    """Assert that an update adds `strength` times what another adds, for two different weights."""
    for weight in (weight_for(delta), weight_for(delta).flip(0) * 2):
        wanted = strength * change(expected, weight=weight)
        assert (change(delta, weight=weight) - wanted).norm() <= near * (1 + wanted.norm())


def parts_beside(delta: Delta) -> list[Source]:
    factors = delta.low_rank.sources if delta.low_rank is not None else ()
    return [source for source in delta.sources if source not in factors]
