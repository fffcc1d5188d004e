"""Which of a tensor's changes may change which of its rows: q, k and v may share a tensor."""

from typing import TYPE_CHECKING

from loratools.deltas.placed import touched_rows
from loratools.merging.plan import PlannedTensor

if TYPE_CHECKING:
    from loratools.merging.fidelity import Fidelity

    #: How much of an update was kept, in all rows that the same changes may change.
    Kept = dict[tuple[int, ...], Fidelity]


def changing(tensor: PlannedTensor, row: int) -> tuple[int, ...]:
    """The changes that may change a row, as their indices in `tensor.changes`."""
    return tuple(
        number
        for number, change in enumerate(tensor.changes)
        if any(begin <= row < end for begin, end in touched_rows(change.delta))
    )


def edges(tensor: PlannedTensor) -> list[int]:
    """The rows, in rising order, at which a change begins or ends. Between two, all rows are alike.

    They depend on the plan alone.
    """
    ranges = [rows for change in tensor.changes for rows in touched_rows(change.delta)]
    return sorted({edge for rows in ranges for edge in rows})


def add_to(kept: "Kept", changes: tuple[int, ...], fidelity: "Fidelity") -> None:
    """Add what was measured of some more rows to what is known."""
    kept[changes] = kept[changes] + fidelity if changes in kept else fidelity


def sum_of(kept: "Kept", change: int | None = None) -> "Fidelity | None":
    """What was measured of all rows, or of those that a change may change; None if nothing was."""
    parts = [part for numbers, part in kept.items() if change is None or change in numbers]
    return sum(parts[1:], start=parts[0]) if parts else None
