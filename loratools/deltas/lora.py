"""LoRA (Hu et al., 2021, arXiv:2106.09685): dW = scaling * up @ down.

`scaling` is alpha / rank, or alpha / sqrt(rank) with rank stabilisation (rsLoRA: Kalajdzievski,
2023, arXiv:2312.03732). PEFT's `lora_A` is `down` and its `lora_B` is `up`.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, final

# Not from the package, whose `Delta` is described with this kind.
from loratools.deltas._span import Product, Span, is_whole
from loratools.deltas._stored import check_stored, swapped, zero_factor
from loratools.errors import FormatError, ShapeMismatchError
from loratools.io.computed import multiplied
from loratools.io.source import Source, sliced, transposed

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["rank", "sqrt_rank", "direct"]
#: `tensor` is the module's own, `metadata` the file's, and `assumed` the rank, without an alpha.
Origin = Literal["tensor", "metadata", "config", "alpha_pattern", "option", "assumed"]


@final
@dataclass(frozen=True)
class Scaling:
    """The factor before `up @ down`; the only place where alpha is divided by a rank.

    Attributes:
        alpha: alpha as it is stored, so that a round trip is exact.
        rank: the rank that the trainer divided by, which is not always that of the factors.
        rule: whether the factor is alpha / rank, alpha / sqrt(rank), or alpha itself ("direct").
        origin: where alpha was found.
        times: how many times the trainer applied the update.
        source: the tensor that alpha was read from, if there is one. A changed alpha is stored in
            a tensor as well.
    """

    alpha: float
    rank: int
    rule: Rule
    origin: Origin
    times: int = 1
    source: Source | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse an alpha that is not finite, and a rank below 1."""
        if not math.isfinite(self.alpha) or self.rank < 1:
            raise FormatError(f"a scaling of alpha {self.alpha!r} over rank {self.rank!r}")

    @cached_property
    def value(self) -> float:
        """The factor before `up @ down`, as a number."""
        return self.times * self.alpha / self.divisor

    @property
    def divisor(self) -> float:
        """The number that alpha is divided by."""
        return {"rank": self.rank, "sqrt_rank": math.sqrt(self.rank), "direct": 1.0}[self.rule]

    def giving(self, value: float) -> "Scaling":
        """The scaling with the alpha that gives this factor."""
        return replace(self, alpha=value * self.divisor / self.times)

    def at(self, alpha: float) -> "tuple[Scaling, float]":
        """The scaling with another alpha, and the factor that a tensor has to be multiplied with.

        An alpha of 0 goes into the tensor, because some readers take it for one that was not set.
        """
        return (self, 0.0) if alpha == 0 else (replace(self, alpha=alpha), 1.0)

    @property
    def silence(self) -> str:
        """The reason, in words, why a scaling is 0."""
        if self.alpha:
            return f"alpha is {self.alpha:g}, too small a number for a scaling"
        return "alpha is 0, which some converters write where none was set"


@final
@dataclass(frozen=True)
class LoRA:
    """A low-rank update of a weight of shape `shape`.

    `up` is (rows, rank) and `down` is (rank, columns), with the rows and columns of the weight seen
    as a matrix.
    """

    caveat: ClassVar[str | None] = None

    up: Source
    down: Source
    scaling: Scaling
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that both factors are matrices of the same rank."""
        check_stored(self.down, self.up)
        up, down = self.up.shape, self.down.shape
        if len(up) != 2 or len(down) != 2 or up[1] != down[0]:
            raise ShapeMismatchError(
                f"{self.up.keys[0]}: factors {list(up)} and {list(down)} do not have the same rank",
                tensor=self.up.keys[0],
                hint=swapped(up, down),
            )

    @property
    def kind(self) -> str:
        """The name of this kind: `rsLoRA` if alpha is divided by the root of the rank."""
        return "rsLoRA" if self.scaling.rule == "sqrt_rank" else "LoRA"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The stored tensors of both factors."""
        return (self.down, self.up)

    @property
    def rank(self) -> int:
        """The rank of the stored factors."""
        return self.down.shape[0]

    @property
    def by_rows(self) -> bool:
        """True: rows of the update need only `down` and the same rows of `up`."""
        return True

    @property
    def additive(self) -> "LoRA":
        """This update itself, as the product is the same for every weight."""
        return self

    @property
    def low_rank(self) -> "LoRA":
        """This update itself, as it is a LoRA."""
        return self

    def nothing(self) -> str | None:
        """The reason if the scaling or one of the factors is zero; else None."""
        if self.scaling.value == 0:
            return self.scaling.silence
        return zero_factor(self.up, ("down", self.down))

    def transposed(self) -> "LoRA":
        """The same update of the transposed weight."""
        return replace(
            self, up=transposed(self.down), down=transposed(self.up), shape=self.shape[::-1]
        )

    def rows(self, begin: int, end: int) -> "LoRA":
        """The update of some rows: the same rows of `up`, and all of `down`."""
        if is_whole(begin, end, self.shape):
            return self
        shape = (end - begin, *self.shape[1:])
        return replace(self, up=sliced(self.up, begin, end), shape=shape)

    def scaled(self, strength: float) -> "LoRA":
        """The same factors with another alpha; for a strength of 0, an `up` of zeros instead."""
        if strength == 1:
            return self
        return self.with_scaling(*self.scaling.at(strength * self.scaling.alpha))

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "LoRA":
        """Replace the scaling, and multiply `up` with `factor`."""
        return replace(self, up=multiplied(self.up, factor), scaling=scaling)

    def with_low_rank(self, lora: "LoRA") -> "LoRA":
        """Return the new LoRA, as there are no other parts to keep."""
        return lora

    def factored(self) -> "LoRA":
        """This update itself, as it is made of factors."""
        return self

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """The rows `begin` to `end` of `scaling * up @ down`, in float64."""
        up = self.up.read_rows(begin, end).double() * self.scaling.value
        return up @ self.down.read().double()

    def bind(self, span: Span, strength: float) -> Product:
        """Return what adds `strength * scaling * up @ down` to blocks of the weight."""
        up = self.up.read_rows(span.begin, span.end).to(span.dtype) * (
            self.scaling.value * strength
        )
        return Product(up, self.down.read().to(span.dtype), span.begin)
