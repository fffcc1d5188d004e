"""Makes adapters additive whose updates depend on the weights of a base."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError
from loratools.files.opening import open_base
from loratools.running.share import Map, split
from loratools.typed import rank_options

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


def additive_all(
    adapters: Sequence[Adapter],
    base: str | Path | None,
    rule: "RankRule | None",
    each: Map,
    variant: str | None = None,
) -> tuple[list[Adapter], tuple[str, ...]]:
    """Make all updates of the adapters additive; return notes on how much that loses.

    Without a `base` the adapters are returned as they are. `variant` is that of its weights.

    Raises:
        UnsupportedError: an update is not additive, and no rule says how many ranks to keep.
        LoratoolsError: an adapter cannot be merged into the base.
    """
    if base is None:
        return list(adapters), ()
    from loratools.lowrank.truncation import together
    from loratools.reshaping.additive import additive, needs_base

    checkpoint = open_base(base, variant=variant)
    made, notes = [], []
    shares = split(each, *map(needs_base, adapters))
    for adapter, share in zip(adapters, shares, strict=True):
        if not needs_base(adapter):
            made.append(adapter)
            continue
        if rule is None:
            raise UnsupportedError(
                f"{adapter.where}: what {', '.join(adapter.kinds)} does to a weight has full rank",
                hint=f"say how many ranks to keep, with {rank_options()}",
            )
        found = additive(adapter, checkpoint, rule, share)
        total = together(found.truncations.values())
        notes.append(
            f"{adapter.where}: {', '.join(adapter.kinds)} made additive for {checkpoint.where}: "
            f"{total.energy:.4%} of the energy kept, relative error {total.error:.3g}, which no "
            f"other figure includes"
        )
        made.append(found.adapter)
    return made, tuple(notes)
