"""DoRA (Liu et al., 2024, arXiv:2402.09353): W' = magnitude * (W + dW) / norm(W + dW).

The norm is taken over a weight's inputs, one magnitude for each output: for the usual (out, in)
weight that is each row, for a weight stored as (in, out) each column. An embedding has one
magnitude for each *column* of (vocabulary, width) in PEFT. Trainers of image models may have one
for each input: of a convolution (out, in, kernel...), each input channel, whatever its kernel.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, final

from loratools.deltas import (
    Additive,
    Apply,
    Span,
    check_stored,
    is_whole,
    no_low_rank,
    only_whole,
)
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError, counted
from loratools.io.source import Source, sliced

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class DoRA:
    """A change whose sum with the weight is rescaled to stored norms of its rows or columns.

    The change is a LoRA, or a kind that takes the place of one. The axis "row" has one magnitude
    for each index of the weight's first dimension, and "column" one for each of the second.

    A `strength` other than 1 interpolates linearly between the weight and the result, so that 0 is
    the weight itself. (Scaling the update inside the norm, as PEFT does at run time, would still
    rescale the weight at strength 0.)
    """

    caveat: ClassVar[str | None] = "before the norms are set"

    change: Additive
    magnitude: Source
    axis: Literal["row", "column"]

    def __post_init__(self) -> None:
        """Check that there is a magnitude for every row or column."""
        check_stored(self.magnitude)
        expected = self.shape[0 if self.axis == "row" else 1]
        if self.magnitude.shape != (expected,):
            raise ShapeMismatchError(
                f"{self.magnitude.keys[0]}: has the shape {list(self.magnitude.shape)}, where "
                f"{counted(expected, 'magnitude is', 'magnitudes are')} expected",
                tensor=self.magnitude.keys[0],
            )

    @property
    def kind(self) -> str:
        """The name of this kind."""
        return "DoRA"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The tensors of the change, and the magnitudes."""
        return (*self.change.sources, self.magnitude)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that is changed."""
        return self.change.shape

    @property
    def by_rows(self) -> bool:
        """Whether magnitudes are those of rows; the norms of columns need every row."""
        return self.axis == "row"

    @property
    def additive(self) -> None:
        """None, as the norms depend on the weight."""
        return None

    @property
    def scaling(self) -> Scaling | None:
        """The scaling of the change, which is added before the norms are set."""
        return self.change.scaling

    @property
    def low_rank(self) -> LoRA | None:
        """The LoRA that is added before the norms are set; None if another kind is."""
        return self.change.low_rank

    def nothing(self) -> None:
        """None, as even a change of zeros leaves the weight with other norms."""

    def transposed(self) -> "DoRA":
        """The same change to the transposed weight, whose columns are the former rows."""
        return replace(
            self,
            change=self.change.transposed(),
            axis="column" if self.axis == "row" else "row",
        )

    def rows(self, begin: int, end: int) -> "DoRA":
        """The same rows of the change and of the magnitudes.

        Raises:
            UnsupportedError: the magnitudes are those of columns, whose norms are over all rows.
        """
        if is_whole(begin, end, self.shape):
            return self
        if self.axis == "column":
            raise UnsupportedError(
                f"{self.kind} with a magnitude for each input sets norms over all rows of the "
                f"weight, so some rows have no change of their own"
            )
        change = self.change.rows(begin, end).additive
        assert change is not None, self.change.kind
        return DoRA(change, sliced(self.magnitude, begin, end), self.axis)

    def scaled(self, strength: float) -> "DoRA":
        """Return this change for a strength of 1; any other would depend on the weight.

        Raises:
            UnsupportedError: the strength is not 1.
        """
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "DoRA":
        """Replace the scaling of the change, and multiply one of its tensors with `factor`."""
        return replace(self, change=self.change.with_scaling(scaling, factor))

    def factored(self) -> LoRA | None:
        """The exact factors of what is added before the norms are set, if it has any."""
        return self.change.factored()

    def with_low_rank(self, lora: LoRA) -> "DoRA":
        """Add this LoRA before the norms are set, and keep the magnitudes.

        Raises:
            UnsupportedError: what has been added has no factors.
        """
        if self.factored() is None:
            raise no_low_rank(self)
        return replace(self, change=lora)

    def bind(self, span: Span, strength: float) -> Apply:
        """Return a function that adds the change and rescales rows or columns to the magnitudes."""
        import torch

        magnitude = self.magnitude.read().double()
        if self.axis == "row":
            add = self.change.bind(span, 1.0)

            def rescale(block: "Tensor", begin: int) -> None:
                add(block, begin)
                rows = magnitude[begin : begin + block.shape[0]]
                # In float64, because squares of float32 can overflow or underflow.
                norms = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
                _multiply(block, _safe_ratio(rows, norms)[:, None])

        else:
            # Norms of columns need all rows: a first pass adds them up, block by block.
            factors = _safe_ratio(magnitude, self._column_norms(span))
            factors = factors.repeat_interleave(self._kernel)

            def rescale(block: "Tensor", begin: int) -> None:
                self._add(block, begin, span)
                _multiply(block, factors)

        def apply(block: "Tensor", begin: int) -> None:
            if strength == 1:
                rescale(block, begin)
                return
            before = block.clone()
            rescale(block, begin)
            block.sub_(before).mul_(strength).add_(before)

        return apply

    def _add(self, block: "Tensor", begin: int, span: Span) -> None:
        """Add the change to one block, reading only the rows that the block needs."""
        rows = Span(begin, begin + block.shape[0], span.dtype, span.blocks)
        self.change.bind(rows, 1.0)(block, begin)

    def _column_norms(self, span: Span) -> "Tensor":
        """The norms of the columns of `W + dW`, computed from one block at a time."""
        import torch

        squares = torch.zeros(self.shape[1] * self._kernel, dtype=torch.float64)
        for begin, block in span.blocks():
            self._add(block, begin, span)
            squares += block.double().square().sum(dim=0)
        return squares.reshape(self.shape[1], self._kernel).sum(dim=1).sqrt()

    @property
    def _kernel(self) -> int:
        """The number of the matrix's columns that have one magnitude: the size of a kernel."""
        return math.prod(self.shape[2:])


def _safe_ratio(magnitude: "Tensor", norm: "Tensor") -> "Tensor":
    """The factors `magnitude / norm`; 0 where the norm is 0, since such a row stays 0."""
    import torch

    return torch.where(norm == 0, 0.0, magnitude / norm)


def _multiply(block: "Tensor", factors: "Tensor") -> None:
    """Multiply a block in place by factors in float64."""
    import torch

    # A factor may be beyond the block's dtype while its products are not: those are computed in
    # float64.

    sizes, limits = factors[factors != 0].abs(), torch.finfo(block.dtype)
    if ((sizes >= limits.tiny) & (sizes <= limits.max)).all():
        block.mul_(factors.to(block.dtype))
    else:
        block.copy_(block.double() * factors)
