"""Refuse rows of a matrix that several adapters train, since a merge has one value for each row."""

from loratools.adapter import Adapter
from loratools.deltas.rows import Rows
from loratools.errors import UnsupportedError, listing, shorten
from loratools.merging.plan import Change, PlannedTensor


def refuse_overlap(adapter: Adapter, planned: PlannedTensor, change: Change, rows: Rows) -> None:
    """Refuse rows that would replace what an earlier adapter has trained.

    Two adapters may train the same row if its values are equal and both weights are 1.

    Raises:
        UnsupportedError: the result would depend on the order of the adapters.
    """
    where = f"{adapter.where}: {shorten(change.target)}"
    remedy = "merge one adapter after the other if the later one is to win"
    if planned.is_trained:
        whole = Rows(tuple(range(planned.shape[0])), planned.origin, planned.shape)
        if differing := rows.differing(whole):
            raise UnsupportedError(
                f"{where}: trains rows {listing(map(str, differing))} of a tensor that is replaced "
                f"whole by others",
                hint=remedy,
            )
    for before in planned.changes:
        if before.rows is not None:
            shared = rows.shared(before.rows)
            is_whole = before.strength == change.strength == 1
            differing = rows.differing(before.rows) if is_whole else shared
            if differing:
                raise UnsupportedError(
                    f"{where}: trains rows {listing(map(str, differing))} that an adapter before "
                    f"it trains too",
                    hint=remedy,
                )
        elif before.adapter != change.adapter:
            raise UnsupportedError(
                f"{where}: its rows would replace what an adapter before it has changed",
                hint="name it before that one, which then changes the new rows too",
            )
