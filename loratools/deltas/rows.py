"""Trained tokens: chosen rows of a matrix take the place of the base's (PEFT's trainable tokens).

PEFT calls the stored rows `trainable_tokens_delta`; they are the new rows and no difference.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn, final

from loratools.deltas import Apply, Span, check_stored, no_low_rank, no_scaling, only_whole
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError
from loratools.io.source import Source

if TYPE_CHECKING:
    from torch import Tensor


@final
@dataclass(frozen=True)
class Rows:
    """Row `indices[i]` of a weight of shape `shape` becomes row i of `values`.

    A `strength` other than 1 goes that share of the way from the old row to the new one.
    """

    caveat: ClassVar[str | None] = None

    indices: tuple[int, ...]
    values: Source
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the rows fit the weight."""
        check_stored(self.values)
        rows, *width = self.shape
        if tuple(width) != self.values.shape[1:] or max(self.indices, default=0) >= rows:
            raise ShapeMismatchError(
                f"{self.values.keys[0]}: rows {list(self.values.shape)} up to index "
                f"{max(self.indices, default=0)} do not fit a weight of shape {list(self.shape)}"
            )

    @property
    def kind(self) -> str:
        """Its name."""
        return "rows"

    @property
    def sources(self) -> tuple[Source, ...]:
        """The new rows."""
        return (self.values,)

    @property
    def by_rows(self) -> bool:
        """Rows stand alone."""
        return True

    @property
    def additive(self) -> None:
        """None: what is added to the old rows is what they lack of the new ones."""
        return None

    @property
    def scaling(self) -> None:
        """None: the rows are stored as they are."""
        return None

    @property
    def low_rank(self) -> None:
        """None: rows are replaced."""
        return None

    def shared(self, other: "Rows") -> tuple[int, ...]:
        """The rows that both put something in the place of, in order."""
        return tuple(sorted({*self.indices} & {*other.indices}))

    def differing(self, other: "Rows") -> tuple[int, ...]:
        """Those of the shared rows that get other values from one than from the other."""
        return tuple(row for row in self.shared(other) if self._row(row) != other._row(row))

    def _row(self, index: int) -> list[float]:
        position = self.indices.index(index)
        row: list[float] = self.values.read_rows(position, position + 1).double().flatten().tolist()
        return row

    def nothing(self) -> None:
        """None: what rows replace is only in the weight."""

    def transposed(self) -> NoReturn:
        """An embedding has one orientation only."""
        raise NotImplementedError

    def scaled(self, strength: float) -> "Rows":
        """Itself, or refused: how far it is to the new rows only the weight tells.

        Raises:
            UnsupportedError: the strength is not 1.
        """
        return only_whole(self, strength)

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> NoReturn:
        """Refused: it has no scaling."""
        raise no_scaling(self)

    def with_low_rank(self, lora: LoRA) -> NoReturn:
        """Refused: it holds no LoRA."""
        raise no_low_rank(self)

    def bind(self, span: Span, strength: float) -> Apply:
        """Put the new rows in the place of the old ones."""
        values = self.values.read().to(span.dtype)

        def apply(block: "Tensor", begin: int) -> None:
            for position, index in enumerate(self.indices):
                if begin <= index < begin + block.shape[0]:
                    old, new = block[index - begin], values[position]
                    # Written out for 1, where old + (new - old) would round.
                    old.copy_(new if strength == 1 else old + strength * (new - old))

        return apply
