"""Traps: adapters whose updates are not what they seem, or that some program reads otherwise.

Each module of this folder is a trap, by its name, and has a `TRAP`. All of them work on the
canonical adapter, so they hold for every dialect. A few traps are noticed only by the dialect that
reads the files, whose notes then have the trap's name.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, final

from loratools import registry
from loratools.errors import OptionError, UnsupportedError, listing
from loratools.nearest import did_you_mean

if TYPE_CHECKING:
    from loratools.adapter import Adapter
    from loratools.io.checkpoint import Checkpoint
    from loratools.parts import Note
    from loratools.traps._trap import Change as Change
    from loratools.traps._trap import Seen, Trap

__all__ = ["ALL", "Repaired", "doubts", "names", "repaired", "traps", "warnings"]

#: In place of the name of a trap: all of those that an adapter has.
ALL = "all"


@final
class Repaired(NamedTuple):
    """A repaired adapter, and what was changed."""

    adapter: "Adapter"
    changes: "tuple[Change, ...]"


def names() -> tuple[str, ...]:
    """The names of all traps, sorted; no trap is imported."""
    return tuple(name.replace("_", "-") for name in registry.names(sys.modules[__name__]))


@cache
def traps() -> "dict[str, Trap]":
    """All traps by name."""
    package = sys.modules[__name__]
    return {name: registry.load(package, name.replace("-", "_")).TRAP for name in names()}


def doubts(adapter: "Adapter") -> "Iterator[Note]":
    """Notes on traps that leave open what the update is, from headers; all verbs show them.

    What the dialect has noted, which may know more about it, is not said again.
    """
    from loratools.traps._trap import Seen

    seen, noted = Seen(adapter), {note.trap for note in adapter.notes}
    doubtful = (name for name, trap in traps().items() if trap.is_doubt and name not in noted)
    return (note for name in doubtful for note in _find(name, seen))


def warnings(
    adapter: "Adapter", base: "Checkpoint | None" = None, *, reads_values: bool = False
) -> "Iterator[Note]":
    """Notes on all other traps: on programs that do something else with the adapter.

    Those that depend on a base or on values are found only with a `base` and if `reads_values`.
    """
    from loratools.traps._trap import Seen

    seen = Seen(adapter, base, reads_values)
    others = (name for name, trap in traps().items() if not trap.is_doubt)
    return (note for name in others for note in _find(name, seen))


def repaired(adapter: "Adapter", chosen: Sequence[str]) -> Repaired:
    """The adapter without the `chosen` traps, in the order of their names; `all` means all traps.

    Raises:
        OptionError: there is no such trap.
        UnsupportedError: one of these cannot be repaired, or the adapter has none of them.
    """
    if unknown := [name for name in chosen if name not in (*names(), ALL)]:
        known, hint = ", ".join(names()), did_you_mean(unknown[0], names())
        raise OptionError(
            f"no trap is called {listing(map(repr, unknown))}", hint=f"there are {known}{hint}"
        )
    for name in chosen:
        if name != ALL and not (trap := traps()[name]).is_repaired:
            raise UnsupportedError(f"{adapter.where}: {name} is not repaired here", hint=trap.cure)
    changes: list[Change] = []
    for name, trap in traps().items():
        if name in chosen or ALL in chosen:
            adapter, found = trap.repair(adapter)
            changes += (change._replace(trap=name) for change in found)
    if not changes:
        what = "nothing" if ALL in chosen else f"no {listing(chosen)}"
        raise UnsupportedError(f"{adapter.where}: {what} that could be repaired was found")
    return Repaired(adapter, tuple(changes))


def _find(name: str, seen: "Seen") -> "Iterator[Note]":
    return (replace(note, trap=name) for note in traps()[name].find(seen))
