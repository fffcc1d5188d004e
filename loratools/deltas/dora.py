"""DoRA (Liu et al., 2024, arXiv:2402.09353): W' = magnitude * (W + dW) / norm(W + dW).

The norm is taken over a weight's inputs, one magnitude for each output: for the usual (out, in)
weight that is each row, for a weight stored as (in, out) each column. An embedding has one
magnitude for each *column* of (vocabulary, width) in PEFT.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, final

from loratools.deltas import Apply, Span, check_stored, only_whole
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError
from loratools.io.source import Source

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class DoRA:
    """A LoRA whose result is rescaled, row by row or column by column, to stored norms.

    A `strength` other than 1 goes that share of the way from the weight to the result, so that 0
    is the weight itself. (Scaling the update inside the norm, as PEFT does at run time, would
    still rescale the weight at strength 0.)
    """

    caveat: ClassVar[str | None] = "before the norms are set"

    lora: LoRA
    magnitude: Source
    axis: Literal["row", "column"]

    def __post_init__(self) -> None:
        """Check that there is a magnitude for every row or column."""
        check_stored(self.magnitude)
        rows = self.lora.up.shape[0]
        columns = self.lora.down.shape[1]
        expected = rows if self.axis == "row" else columns
        if self.magnitude.shape != (expected,):
            raise ShapeMismatchError(
                f"{self.magnitude.keys[0]}: has the shape {list(self.magnitude.shape)}; "
                f"{expected} magnitudes are expected"
            )

    @property
    def kind(self) -> str:
        """Its name."""
        return "DoRA"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The factors, and the magnitudes."""
        return (*self.lora.sources, self.magnitude)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.lora.shape

    @property
    def by_rows(self) -> bool:
        """Norms of columns need every row."""
        return self.axis == "row"

    @property
    def additive(self) -> None:
        """None: the norms are those of the weight with the update."""
        return None

    @property
    def scaling(self) -> Scaling:
        """That of the update, before the norms are set."""
        return self.lora.scaling

    @property
    def low_rank(self) -> LoRA:
        """What is added before the norms are set."""
        return self.lora

    def nothing(self) -> None:
        """None: also without an update, the norms become the magnitudes."""

    def transposed(self) -> "DoRA":
        """The same change to the transposed matrix: its rows are now columns."""
        return replace(
            self,
            lora=self.lora.transposed(),
            axis="column" if self.axis == "row" else "row",
        )

    def scaled(self, strength: float) -> "DoRA":
        """Itself, or refused: any other strength would have to know the weight.

        Raises:
            UnsupportedError: the strength is not 1.
        """
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "DoRA":
        """With `factor` in the LoRA's `up`."""
        return replace(self, lora=self.lora.with_scaling(scaling, factor))

    def with_low_rank(self, lora: LoRA) -> "DoRA":
        """Another LoRA, and the same magnitudes."""
        return replace(self, lora=lora)

    def bind(self, span: Span, strength: float) -> Apply:
        """Rescale `W + dW` to the magnitudes."""
        import torch

        magnitude = self.magnitude.read().double()
        if self.axis == "row":
            add = self.lora.bind(span, 1.0)

            def rescale(block: "Tensor", begin: int) -> None:
                add(block, begin)
                rows = magnitude[begin : begin + block.shape[0]]
                # In float64: squares of float32 leave its range, at both ends.
                norms = torch.linalg.vector_norm(block, dim=1, dtype=torch.float64)
                _multiply(block, _safe_ratio(rows, norms)[:, None])

        else:
            factors = _safe_ratio(magnitude, self._column_norms(span))

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
        """Add the LoRA to one block, reading only the factors of its rows."""
        rows = Span(begin, begin + block.shape[0], span.dtype, span.blocks)
        self.lora.bind(rows, 1.0)(block, begin)

    def _column_norms(self, span: Span) -> "Tensor":
        """Norms over all rows of `W + dW`, a block at a time."""
        import torch

        squares = torch.zeros(self.lora.down.shape[1], dtype=torch.float64)
        for begin, block in span.blocks():
            self._add(block, begin, span)
            squares += block.double().square().sum(dim=0)
        return squares.sqrt()


def _safe_ratio(magnitude: "Tensor", norm: "Tensor") -> "Tensor":
    """`magnitude / norm`; where the norm is 0 the row is 0 and stays 0."""
    import torch

    return torch.where(norm == 0, 0.0, magnitude / norm)


def _multiply(block: "Tensor", factors: "Tensor") -> None:
    """Multiply by float64 factors, whose products are in the block's range if they are not."""
    import torch

    sizes, limits = factors[factors != 0].abs(), torch.finfo(block.dtype)
    if ((sizes >= limits.tiny) & (sizes <= limits.max)).all():
        block.mul_(factors.to(block.dtype))
    else:
        block.copy_(block.double() * factors)
