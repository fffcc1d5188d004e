"""LoCon with a Tucker core (LyCORIS: Yeh et al., 2023, arXiv:2309.14859): three small tensors.

dW[o, i, k...] = scaling * sum over m and n of up[o, m] * core[m, n, k...] * down[n, i]. The core
has the axes of a convolution's kernel, and the two factors are matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

from loratools.deltas import (
    Product,
    Span,
    check_stored,
    is_whole,
    scaled_by_alpha,
    zero_factor,
)
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.io.computed import Computed, multiplied
from loratools.io.source import Source, sliced, transposed

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Tucker:
    """A low-rank update whose factors are joined by a core: exactly a LoRA of `core * down`.

    `up` is (out, m), `core` is (m, n, kernel...) and `down` is (n, in). Trainers make m and n
    equal; alpha is divided by n, the rank of `down`.
    """

    caveat: ClassVar[str | None] = None

    up: Source
    core: Source
    down: Source
    scaling: Scaling

    def __post_init__(self) -> None:
        """Check that the factors are matrices that fit the core."""
        check_stored(self.down, self.core, self.up)
        up, core, down = self.up.shape, self.core.shape, self.down.shape
        if len(up) != 2 or len(down) != 2 or core[:2] != (up[1], down[0]):
            raise ShapeMismatchError(
                f"{self.core.keys[0]}: a core {list(core)} does not fit factors {list(up)} and "
                f"{list(down)}: expected (m, n, kernel...) between (out, m) and (n, in)",
                tensor=self.core.keys[0],
            )

    @property
    def kind(self) -> str:
        """The name of this kind."""
        return "Tucker LoCon"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The stored tensors of the factors and of the core."""
        return (self.down, self.core, self.up)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight, whose kernel is that of the core."""
        return (self.up.shape[0], self.down.shape[1], *self.core.shape[2:])

    @property
    def by_rows(self) -> bool:
        """True: rows of the update need only `core`, `down` and the same rows of `up`."""
        return True

    @property
    def additive(self) -> "Tucker":
        """This update itself, as it is the same for every weight."""
        return self

    @property
    def low_rank(self) -> None:
        """None, as the LoRA that it is equal to is not stored."""
        return None

    def nothing(self) -> str | None:
        """The reason if the scaling, a factor or the core is zero; else None."""
        if self.scaling.value == 0:
            return self.scaling.silence
        return zero_factor(self.up, ("the core", self.core), ("down", self.down))

    def transposed(self) -> "Tucker":
        """The same update of the transposed weight, if it has no kernel.

        Raises:
            UnsupportedError: the weight is that of a convolution.
        """
        if len(self.shape) > 2:
            raise UnsupportedError(f"{self.kind}: {list(self.shape)} has no other orientation")
        up, core, down = (transposed(part) for part in (self.down, self.core, self.up))
        return replace(self, up=up, core=core, down=down)

    def rows(self, begin: int, end: int) -> "Tucker":
        """The update of some rows: the same rows of `up`, and all of `core` and `down`."""
        if is_whole(begin, end, self.shape):
            return self
        return replace(self, up=sliced(self.up, begin, end))

    def scaled(self, strength: float) -> "Tucker":
        """The same tensors with another alpha; for a strength of 0, an `up` of zeros instead."""
        return scaled_by_alpha(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "Tucker":
        """Replace the scaling, and multiply `up` with `factor`."""
        return replace(self, up=multiplied(self.up, factor), scaling=scaling)

    def with_low_rank(self, lora: LoRA) -> LoRA:
        """Return the new LoRA, which leaves no place for the core."""
        return lora

    def factored(self) -> LoRA:
        """The LoRA of `up` and of `core * down`, which is a matrix (m, in * kernel)."""
        columns = math.prod(self.shape[1:])
        down = Computed((self.core, self.down), "F64", (self.core.shape[0], columns), _contracted)
        return LoRA(self.up, down, self.scaling, self.shape)

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """The rows `begin` to `end` of the scaled update, in float64."""
        return self.factored().dense_rows(begin, end)

    def bind(self, span: Span, strength: float) -> Product:
        """Return what adds `strength` times the update to blocks of the weight."""
        return self.factored().bind(span, strength)


def _contracted(tensors: "Sequence[Tensor]") -> "Tensor":
    """The product of a core (m, n, kernel...) and of `down` (n, in), as (m, in * kernel)."""
    import torch

    core, down = (tensor.double() for tensor in tensors)
    return torch.einsum("mn...,ni->mi...", core, down).flatten(1)
