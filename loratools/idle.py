"""Finds the updates of an adapter that change nothing, whatever the base, and says why."""

from collections.abc import Collection, Iterable

from loratools.adapter import Adapter
from loratools.errors import counted, listing

#: The note on a new adapter whose updates are all zero.
NOTHING_LEFT = "nothing is left of the updates: the result changes nothing"
#: The reason why an update changes nothing if its factors are not zero, but their product is.
NO_PRODUCT = "the product of its factors is zero, or too small for float64"


def idle_updates(adapter: Adapter, zero: Collection[str]) -> dict[str, str]:
    """The reason for each update, by target, that changes nothing, whatever the base.

    `zero` are the targets whose product of factors was found to be zero.
    """
    found = {}
    for target, update in adapter.updates.items():
        reason = update.delta.nothing()
        if reason is None and update.delta.additive is not None and target in zero:
            reason = NO_PRODUCT
        if reason is not None:
            found[target] = reason
    return found


def by_reason(named: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """A line for each reason, with the number of updates it applies to and their first names.

    `named` are pairs of a target's name and the reason why its update changes nothing.
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in named:
        reasons.setdefault(reason, []).append(name)
    return tuple(
        f"{counted(len(names), 'update changes', 'updates change')} nothing: "
        f"{reason} ({listing(names, 3)})"
        for reason, names in reasons.items()
    )
