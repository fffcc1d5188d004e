"""LoRA for each of several stacked matrices, as experts have: dW[e] = scaling * up[e] @ down[e].

This is LoRA (Hu et al., 2021, arXiv:2106.09685) matrix by matrix. microsoft/LoRA's convolutions are
such stacks too, whose matrices share one `down`.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NoReturn, final

from loratools.deltas import (
    Apply,
    Span,
    check_stored,
    is_whole,
    no_low_rank,
    scaled_by_alpha,
    zero_factor,
)
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.io.computed import multiplied
from loratools.io.source import Source, sliced

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@final
@dataclass(frozen=True)
class Stacked:
    """A low-rank update of each matrix in a weight that stacks them along its first dimension.

    `up` is (matrices, out, rank) and `down` is (matrices, rank, in), or (1, rank, in) where all
    matrices share it. The rows of the weight, each seen as a vector, are the matrices (out, in).
    """

    caveat: ClassVar[str | None] = None

    up: Source
    down: Source
    scaling: Scaling
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the factors fit each other and the weight."""
        check_stored(self.down, self.up)
        up, down = self.up.shape, self.down.shape
        if (
            len(up) != 3
            or len(down) != 3
            or up[2] != down[1]
            or down[0] not in (1, up[0])
            or (up[0], up[1] * down[2]) != (self.shape[0], math.prod(self.shape[1:]))
        ):
            raise ShapeMismatchError(
                f"{self.up.keys[0]}: stacked factors {list(up)} and {list(down)} do not fit each "
                f"other and a weight of shape {list(self.shape)}",
                tensor=self.up.keys[0],
            )

    @property
    def kind(self) -> str:
        """The name of this kind."""
        return "stacked LoRA"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The stored tensors of both factors."""
        return (self.down, self.up)

    @property
    def rank(self) -> int:
        """The rank of each matrix's factors."""
        return self.down.shape[1]

    @property
    def by_rows(self) -> bool:
        """True: each matrix is a row, and is changed independently of the others."""
        return True

    @property
    def additive(self) -> "Stacked":
        """This update itself, as the products are the same for every weight."""
        return self

    @property
    def low_rank(self) -> None:
        """None, as it is one LoRA for each matrix and not one for all."""
        return None

    def nothing(self) -> str | None:
        """The reason if the scaling or one of the factors is zero; else None."""
        if self.scaling.value == 0:
            return self.scaling.silence
        return zero_factor(self.up, ("down", self.down))

    def transposed(self) -> NoReturn:
        """Refuse, as a stack of matrices has only one orientation.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{self.kind}: {list(self.shape)} has no other orientation")

    def rows(self, begin: int, end: int) -> "Stacked":
        """The update of some of the matrices, such as single experts, each of which is a row."""
        if is_whole(begin, end, self.shape):
            return self
        is_shared = self.down.shape[0] == 1
        return replace(
            self,
            up=sliced(self.up, begin, end),
            down=self.down if is_shared else sliced(self.down, begin, end),
            shape=(end - begin, *self.shape[1:]),
        )

    def scaled(self, strength: float) -> "Stacked":
        """The same factors with another alpha; for a strength of 0, an `up` of zeros instead."""
        return scaled_by_alpha(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "Stacked":
        """Replace the scaling, and multiply `up` with `factor`."""
        return replace(self, up=multiplied(self.up, factor), scaling=scaling)

    def with_low_rank(self, lora: LoRA) -> NoReturn:
        """Refuse a LoRA, as there is one for each matrix."""
        raise no_low_rank(self)

    def factored(self) -> None:
        """None, as the whole has no factors that are smaller than itself."""

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """The matrices `begin` to `end`, scaled, each as a row, in float64."""
        import torch

        ups, downs = self._factors(begin, end, torch.float64)
        return (ups * self.scaling.value @ downs).flatten(1)

    def bind(self, span: Span, strength: float) -> Apply:
        """Return what adds `strength * scaling * up @ down` to each matrix of a block."""
        ups, downs = self._factors(span.begin, span.end, span.dtype)
        ups = ups * (self.scaling.value * strength)

        def apply(block: "Tensor", begin: int) -> None:
            first = begin - span.begin
            for row, matrix in enumerate(block, start=first):
                matrix.view(ups.shape[1], downs.shape[2]).addmm_(ups[row], downs[row])

        return apply

    def _factors(self, begin: int, end: int, dtype: "torch.dtype") -> "tuple[Tensor, Tensor]":
        """The factors of the matrices `begin` to `end`; a shared one is there once for each."""
        ups = self.up.read_rows(begin, end).to(dtype)
        if self.down.shape[0] == 1:
            return ups, self.down.read().to(dtype).expand(end - begin, -1, -1)
        return ups, self.down.read_rows(begin, end).to(dtype)
