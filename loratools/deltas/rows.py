"""Trained tokens: chosen rows of a matrix that replace the base's (PEFT's trainable tokens).

PEFT calls the stored rows `trainable_tokens_delta`, but they are the new rows, not a difference.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn, final

from loratools.deltas import (
    Apply,
    Span,
    check_stored,
    is_whole,
    no_low_rank,
    no_scaling,
    only_whole,
)
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.io.computed import taken
from loratools.io.source import Source

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Rows:
    """New rows for a weight of shape `shape`: its row `indices[i]` becomes row i of `values`.

    A `strength` other than 1 interpolates linearly between the old row and the new one.
    """

    caveat: ClassVar[str | None] = None

    indices: tuple[int, ...]
    values: Source
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the rows have the width of the weight, and their indices are in range."""
        check_stored(self.values)
        rows, *width = self.shape
        if tuple(width) != self.values.shape[1:] or max(self.indices, default=0) >= rows:
            raise ShapeMismatchError(
                f"{self.values.keys[0]}: rows {list(self.values.shape)} up to index "
                f"{max(self.indices, default=0)} do not fit a weight of shape {list(self.shape)}",
                tensor=self.values.keys[0],
            )

    @property
    def kind(self) -> str:
        """The name of this kind."""
        return "rows"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The stored tensor of the new rows."""
        return (self.values,)

    @property
    def by_rows(self) -> bool:
        """True: each row is replaced independently of the others."""
        return True

    @property
    def additive(self) -> None:
        """None, as the difference between old and new rows depends on the weight."""
        return None

    @property
    def scaling(self) -> None:
        """None, as rows are stored without a scaling."""
        return None

    @property
    def low_rank(self) -> None:
        """None, as rows are replaced, not updated by factors."""
        return None

    def shared(self, other: "Rows") -> tuple[int, ...]:
        """The indices of the rows that both replace, in rising order."""
        return tuple(sorted({*self.indices} & {*other.indices}))

    def differing(self, other: "Rows") -> tuple[int, ...]:
        """The indices of the shared rows that get different values from the two."""
        return tuple(row for row in self.shared(other) if self._row(row) != other._row(row))

    def _row(self, index: int) -> list[float]:
        position = self.indices.index(index)
        row: list[float] = self.values.read_rows(position, position + 1).double().flatten().tolist()
        return row

    def nothing(self) -> None:
        """None, as only the weight tells whether the new rows differ from its own."""

    def transposed(self) -> NoReturn:
        """Not implemented, as an embedding has only one orientation."""
        raise NotImplementedError

    def rows(self, begin: int, end: int) -> "Rows":
        """The new rows among some rows of the weight.

        Raises:
            UnsupportedError: none of these rows is replaced.
        """
        if is_whole(begin, end, self.shape):
            return self
        found = [(at, row) for at, row in enumerate(self.indices) if begin <= row < end]
        if not found:
            raise UnsupportedError(f"{self.kind}: none of the rows {begin} to {end} is replaced")
        values = taken(self.values, tuple(at for at, _ in found))
        return Rows(tuple(row - begin for _, row in found), values, (end - begin, *self.shape[1:]))

    def scaled(self, strength: float) -> "Rows":
        """Return this change for a strength of 1; any other would depend on the weight.

        Raises:
            UnsupportedError: the strength is not 1.
        """
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> NoReturn:
        """Refuse a scaling, as rows are stored without one."""
        raise no_scaling(self)

    def factored(self) -> None:
        """None, as rows are replaced, not updated by factors."""

    def with_low_rank(self, lora: LoRA) -> NoReturn:
        """Refuse a LoRA, as rows hold none."""
        raise no_low_rank(self)

    def bind(self, span: Span, strength: float) -> Apply:
        """Return a function that replaces the rows in blocks of the weight."""
        values = self.values.read().to(span.dtype)

        def apply(block: "Tensor", begin: int) -> None:
            for position, index in enumerate(self.indices):
                if begin <= index < begin + block.shape[0]:
                    old, new = block[index - begin], values[position]
                    # A strength of 1 copies the new row, as old + (new - old) would round.
                    old.copy_(new if strength == 1 else old + strength * (new - old))

        return apply
