"""Updates that change nothing, whatever the base: which they are, and why."""

from collections.abc import Collection, Iterable

from loratools.adapter import Adapter
from loratools.errors import listing

#: Said of an adapter that a verb makes.
NOTHING_LEFT = "nothing is left of the updates: the result changes nothing"
#: The reason of an update whose factors are not zero, and whose product is.
NO_PRODUCT = "the product of its factors is zero, or too small for float64"


def idle_updates(adapter: Adapter, zero: Collection[str]) -> dict[str, str]:
    """The updates that change nothing, whatever the base, and why; by target.

    `zero` are those whose product of factors was found to be zero.
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
    """A line for each reason, with the number of updates and the first names."""
    reasons: dict[str, list[str]] = {}
    for name, reason in named:
        reasons.setdefault(reason, []).append(name)
    return tuple(
        f"{len(names)} {'update changes' if len(names) == 1 else 'updates change'} nothing: "
        f"{reason} ({listing(names, 3)})"
        for reason, names in reasons.items()
    )
