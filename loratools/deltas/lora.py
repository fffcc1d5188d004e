"""LoRA (Hu et al., 2021, arXiv:2106.09685): dW = scaling * up @ down.

`scaling` is alpha / rank, or alpha / sqrt(rank) with rank stabilisation (rsLoRA: Kalajdzievski,
2023, arXiv:2312.03732). PEFT's `lora_A` is `down` and its `lora_B` is `up`.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, final

# Not from the package, whose `Delta` is described with this kind.
from loratools.deltas._span import Apply, Span
from loratools.deltas._stored import check_stored
from loratools.errors import FormatError, ShapeMismatchError
from loratools.io.computed import multiplied
from loratools.io.source import Source, transposed
from loratools.io.values import is_zero

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["rank", "sqrt_rank", "direct"]
Origin = Literal["config", "alpha_pattern", "tensor", "assumed"]


@final
@dataclass(frozen=True)
class Scaling:
    """The factor before `up @ down`; the only place where alpha is divided by a rank.

    Attributes:
        alpha: as filed, so that a round trip is exact.
        rank: the rank that the trainer divided by, which is not always that of the factors.
        rule: alpha / rank, alpha / sqrt(rank), or alpha itself.
        origin: where alpha was found.
        times: how often the trainer applied the update.
        source: the tensor that alpha was read from, if it was. An alpha that changes is stored in
            the same way.
    """

    alpha: float
    rank: int
    rule: Rule
    origin: Origin
    times: int = 1
    source: Source | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what no trainer can have meant."""
        if not math.isfinite(self.alpha) or self.rank < 1:
            raise FormatError(f"a scaling of alpha {self.alpha!r} over rank {self.rank!r}")

    @cached_property
    def value(self) -> float:
        """The factor itself."""
        divisor = {"rank": self.rank, "sqrt_rank": math.sqrt(self.rank), "direct": 1.0}[self.rule]
        return self.times * self.alpha / divisor

    def at(self, alpha: float) -> "tuple[Scaling, float]":
        """The scaling with another alpha, and what a tensor has to be multiplied with beside it.

        An alpha of 0 goes into the tensor, because some readers take it for one that was not set.
        """
        return (self, 0.0) if alpha == 0 else (replace(self, alpha=alpha), 1.0)

    @property
    def silence(self) -> str:
        """What is to be said of a scaling of 0."""
        if self.alpha:
            return f"alpha is {self.alpha:g}, too small a number for a scaling"
        return "alpha is 0, which some converters write where none was set"


@final
@dataclass(frozen=True)
class LoRA:
    """An update of low rank to a weight of shape `shape`.

    `up` is (rows, rank) and `down` is (rank, columns) of the weight seen as a matrix.
    """

    caveat: ClassVar[str | None] = None

    up: Source
    down: Source
    scaling: Scaling
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that both factors are matrices of one rank."""
        check_stored(self.down, self.up)
        up, down = self.up.shape, self.down.shape
        if len(up) != 2 or len(down) != 2 or up[1] != down[0]:
            raise ShapeMismatchError(
                f"{self.up.keys[0]}: factors {list(up)} and {list(down)} do not have the same rank"
            )

    @property
    def kind(self) -> str:
        """`rsLoRA` where the scaling is the stabilised one."""
        return "rsLoRA" if self.scaling.rule == "sqrt_rank" else "LoRA"

    @property
    def sources(self) -> tuple[Source, ...]:
        """Both factors."""
        return (self.down, self.up)

    @property
    def rank(self) -> int:
        """The rank of the stored factors."""
        return self.down.shape[0]

    @property
    def by_rows(self) -> bool:
        """Rows of the update need those rows of `up`, and `down`."""
        return True

    @property
    def additive(self) -> "LoRA":
        """Itself: the product is the same for every weight."""
        return self

    @property
    def low_rank(self) -> "LoRA":
        """Itself."""
        return self

    def nothing(self) -> str | None:
        """Why the product is zero, as far as one factor shows."""
        if self.scaling.value == 0:
            return self.scaling.silence
        if is_zero(self.up):
            return "up is zero throughout, as before training"
        return "down is zero throughout" if is_zero(self.down) else None

    def transposed(self) -> "LoRA":
        """The update of the transposed matrix."""
        return replace(
            self, up=transposed(self.down), down=transposed(self.up), shape=self.shape[::-1]
        )

    def scaled(self, strength: float) -> "LoRA":
        """With another alpha; for a strength of 0, with an `up` of zeros."""
        if strength == 1:
            return self
        return self.with_scaling(*self.scaling.at(strength * self.scaling.alpha))

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "LoRA":
        """With `factor` in `up`."""
        return replace(self, up=multiplied(self.up, factor), scaling=scaling)

    def with_low_rank(self, lora: "LoRA") -> "LoRA":
        """The other one: a LoRA has no other parts."""
        return lora

    def factored(self) -> "LoRA":
        """Itself."""
        return self

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """Rows of `scaling * up @ down`."""
        up = self.up.read_rows(begin, end).double() * self.scaling.value
        return up @ self.down.read().double()

    def bind(self, span: Span, strength: float) -> Apply:
        """Add `strength * scaling * up @ down`."""
        up = self.up.read_rows(span.begin, span.end).to(span.dtype) * (
            self.scaling.value * strength
        )
        down = self.down.read().to(span.dtype)

        def apply(block: "Tensor", begin: int) -> None:
            begin -= span.begin
            block.addmm_(up[begin : begin + block.shape[0]], down)

        return apply
