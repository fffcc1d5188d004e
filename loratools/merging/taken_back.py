"""How many numbers are not what they were before a merge, when its update is taken out again."""

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class TakenBack:
    """How many elements are not what they were before an update was merged into them.

    Rounding may have made one number of several, and which of them it was is not stored. The counts
    hold if one merge of this update made the numbers, and rounded them to nearest in their dtype.

    Attributes:
        elements: all that the update is taken out of.
        most: those that may not be what they were, as they have several possible originals.
        expected: how many of these it would be on average if all originals are equally likely; None
            if the originals were not counted, and `most` is all elements.
        foreign: those without a possible original, which no such merge has made.
    """

    elements: int
    most: int
    expected: float | None
    foreign: int

    def __add__(self, other: "TakenBack") -> "TakenBack":
        """The counts of the elements of both."""
        is_counted = self.expected is not None and other.expected is not None
        return TakenBack(
            self.elements + other.elements,
            self.most + other.most,
            (self.expected or 0) + (other.expected or 0) if is_counted else None,
            self.foreign + other.foreign,
        )
