"""A change stored whole: W' = W + scaling * values. PEFT's `lora_B.bias`; others' `diff`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from loratools.deltas import Apply, Span, check_stored
from loratools.deltas.lora import Scaling
from loratools.errors import ShapeMismatchError
from loratools.io.source import Source, flattened, is_zero

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Diff:
    """An update of full rank: `values` has the shape of the weight."""

    additive: ClassVar[bool] = True

    values: Source
    scaling: Scaling

    def __post_init__(self) -> None:
        """Check that it has rows to add to those of a weight."""
        check_stored(self.values)
        if not self.values.shape:
            raise ShapeMismatchError(f"{self.values.keys[0]}: is a single number, not a tensor")

    @property
    def kind(self) -> str:
        """Its name."""
        return "diff"

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is stored."""
        return (self.values,)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return self.values.shape

    @property
    def by_rows(self) -> bool:
        """Rows stand alone."""
        return True

    @property
    def low_rank(self) -> None:
        """None: it is stored whole."""
        return None

    def nothing(self) -> str | None:
        """Why all numbers are zero."""
        if self.scaling.value == 0:
            return self.scaling.silence
        return "its numbers are zero throughout" if is_zero(self.values) else None

    def transposed(self) -> "Diff":
        """A vector has no other orientation."""
        return self

    def bind(self, span: Span, strength: float) -> Apply:
        """Add `strength * scaling * values`."""
        values = flattened(self.values).read_rows(span.begin, span.end).to(span.dtype)
        values = values * (self.scaling.value * strength)

        def apply(block: "Tensor", begin: int) -> None:
            begin -= span.begin
            block.add_(values[begin : begin + block.shape[0]])

        return apply
