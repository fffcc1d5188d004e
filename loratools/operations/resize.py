"""Store an adapter at other ranks: the best approximation of each update, at its strength."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from loratools.adapter import Adapter
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.errors import UnsupportedError, shorten
from loratools.operations.factors import sum_of, with_low_rank
from loratools.operations.parallel import Map
from loratools.operations.truncation import Decomposed, approximate, rooms

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule, Wanted
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True)
class Resized:
    """The resized adapter; by target, its rank before and what was lost."""

    adapter: Adapter
    ranks: Mapping[str, int]
    truncations: "Mapping[str, Truncation]"
    gap: float
    notes: tuple[str, ...]


def resize(adapter: Adapter, rule: "RankRule", each: Map = map) -> Resized:
    """The adapter with every low-rank update at the rank that `rule` gives it.

    A rank that grows is filled with zeros. Alpha follows the rank, so that the scaling stays.

    Raises:
        NonFiniteError: a factor holds a NaN or an infinity.
        UnsupportedError: an update's rank means more than its precision, or the adapter cannot be
            merged exactly.
    """
    adapter.check_usable()
    loras = {t: u.delta.low_rank for t, u in adapter.updates.items() if u.delta.low_rank}
    for target in loras:
        if isinstance(adapter.updates[target].delta, KaSA):
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: KaSA takes as many components out of the "
                f"weight as its rank, so another rank would be another change"
            )
    sums = {target: sum_of([(1.0, lora)]) for target, lora in loras.items()}
    most = rule.max_rank if rule.rank is None else rule.rank

    space = rooms(sums, most)

    def decompose(question: "tuple[str, Wanted]") -> Decomposed:
        target, _ = question
        return Decomposed(sums[target], sums[target].svd().held_in(space[target]))

    shapes = {target: updates.shape for target, updates in sums.items()}
    found = approximate(shapes, decompose, rule, each)
    updates = {
        target: replace(update, delta=with_low_rank(update.delta, found.updates[target]))
        if target in loras
        else update
        for target, update in adapter.updates.items()
    }
    return Resized(
        adapter=replace(adapter, updates=updates),
        ranks={target: lora.rank for target, lora in loras.items()},
        truncations=found.truncations,
        gap=found.gap,
        notes=_notes(adapter),
    )


def _notes(adapter: Adapter) -> tuple[str, ...]:
    if not any(isinstance(update.delta, DoRA) for update in adapter.updates.values()):
        return ()
    return ("DoRA: energy and error are those of the low-rank part, before the norms are set",)
