"""A change stored whole: W' = W + scaling * values. PEFT's `lora_B.bias`; `diff` elsewhere."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NoReturn, final

from loratools.deltas import Apply, Span, check_stored, is_whole, no_low_rank, scaled_by_alpha
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.io.computed import multiplied
from loratools.io.source import Source, flattened, sliced, transposed
from loratools.io.values import is_zero

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Diff:
    """An update of full rank: `values` has the shape of the weight."""

    caveat: ClassVar[str | None] = None

    values: Source
    scaling: Scaling

    def __post_init__(self) -> None:
        """Check that the values are a tensor with rows, and not a single number."""
        check_stored(self.values)
        if not self.values.shape:
            raise ShapeMismatchError(
                f"{self.values.keys[0]}: is a single number, not a tensor",
                tensor=self.values.keys[0],
            )

    @property
    def kind(self) -> str:
        """The name of this kind."""
        return "diff"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The stored values."""
        return (self.values,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight, which is that of the values."""
        return self.values.shape

    @property
    def by_rows(self) -> bool:
        """True: each row is changed independently of the others."""
        return True

    @property
    def additive(self) -> "Diff":
        """This change itself, as it adds the same values to every weight."""
        return self

    @property
    def low_rank(self) -> None:
        """None, as the values are stored whole, without factors."""
        return None

    def nothing(self) -> str | None:
        """The reason if the scaling or all values are zero; else None."""
        if self.scaling.value == 0:
            return self.scaling.silence
        return "its numbers are zero throughout" if is_zero(self.values) else None

    def transposed(self) -> "Diff":
        """The same change with the axes of the values swapped; that of a vector stays as it is.

        Raises:
            UnsupportedError: the values have more than two dimensions.
        """
        dimensions = len(self.shape)
        if dimensions > 2:
            raise UnsupportedError(f"{self.kind}: {list(self.shape)} has no other orientation")
        return self if dimensions == 1 else replace(self, values=transposed(self.values))

    def rows(self, begin: int, end: int) -> "Diff":
        """The update of some rows: the same rows of the values."""
        if is_whole(begin, end, self.shape):
            return self
        return replace(self, values=sliced(self.values, begin, end))

    def scaled(self, strength: float) -> "Diff":
        """The same values with another alpha; for a strength of 0, zeros with the same alpha."""
        return scaled_by_alpha(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "Diff":
        """Replace the scaling, and multiply the values with `factor`."""
        return replace(self, values=multiplied(self.values, factor), scaling=scaling)

    def with_low_rank(self, lora: LoRA) -> NoReturn:
        """Refuse a LoRA, as the values are stored whole."""
        raise no_low_rank(self)

    def factored(self) -> None:
        """None, as the values are stored whole, without factors."""

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """The rows `begin` to `end` of `scaling * values`, in float64."""
        return flattened(self.values).read_rows(begin, end).double() * self.scaling.value

    def bind(self, span: Span, strength: float) -> Apply:
        """Return a function that adds `strength * scaling * values` to blocks of the weight."""
        values = flattened(self.values).read_rows(span.begin, span.end).to(span.dtype)
        values = values * (self.scaling.value * strength)

        def apply(block: "Tensor", begin: int) -> None:
            begin -= span.begin
            block.add_(values[begin : begin + block.shape[0]])

        return apply
