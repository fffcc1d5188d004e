"""Stores an adapter with other ranks: the best approximation of each update, at its strength."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.lora import LoRA
from loratools.errors import UnsupportedError, shorten
from loratools.parts import Update
from loratools.reshaping.approximation import Decomposed, approximate, rooms
from loratools.reshaping.factors import Sum, sum_of, widest
from loratools.running.share import Map
from loratools.typed import command

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule, Wanted
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True)
class Resized:
    """The resized adapter, and the ranks before and the certificates by target."""

    adapter: Adapter
    ranks: Mapping[str, int]
    truncations: "Mapping[str, Truncation]"
    gap: float
    notes: tuple[str, ...]


def resized(adapter: Adapter, rule: "RankRule", each: Map = map) -> Resized:
    """Bring every low-rank update to the rank that `rule` gives it.

    A kind with exact factors that holds no LoRA becomes a LoRA. Vectors, which have no rank, stay.
    A rank that grows is filled up with zeros. Alpha follows the rank, so that the scaling stays.

    Raises:
        NonFiniteError: a factor holds a NaN or an infinity.
        UnsupportedError: a kind cannot have another rank or has no factors, or the adapter cannot
            be merged exactly.
    """
    adapter.check_usable()
    loras = _factored(adapter)
    sums = {target: _sum(adapter.updates[target].delta, lora) for target, lora in loras.items()}
    most = rule.max_rank if rule.rank is None else rule.rank

    space = rooms(sums, most)

    def decompose(question: "tuple[str, Wanted]") -> Decomposed:
        target, _ = question
        return Decomposed(sums[target], sums[target].svd().held_in(space[target]))

    shapes = {target: updates.shape for target, updates in sums.items()}
    found = approximate(shapes, decompose, rule, each)
    updates = {
        target: _resized(adapter.where, target, update, found.updates[target])
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


def _factored(adapter: Adapter) -> dict[str, LoRA]:
    """The factors of all updates except vectors, by target."""
    loras = {}
    for target, update in adapter.updates.items():
        lora = update.delta.factored()
        if lora is not None:
            loras[target] = lora
        elif len(update.delta.shape) > 1:
            raise UnsupportedError(
                f"{adapter.where}: {shorten(target)}: {update.delta.kind} has no factors, and so "
                f"no rank that could be another",
                tensor=target,
                hint=f"`{command('merge')}` adds it to a base as it is",
            )
    return loras


def _sum(delta: Delta, lora: LoRA) -> Sum:
    """The factors as a sum; if they are computed, they are stored in the dtype of their sources."""
    product = sum_of([(1.0, lora)])
    if delta.low_rank is not None:
        return product
    return replace(product, dtype=widest([source.dtype for source in delta.sources]))


def _resized(where: str, target: str, update: Update, lora: LoRA) -> Update:
    try:
        return replace(update, delta=update.delta.with_low_rank(lora))
    except UnsupportedError as error:
        raise error.within(where, target) from error


def _notes(adapter: Adapter) -> tuple[str, ...]:
    """Notes on what the certificates refer to, one for each kind that is more than a LoRA."""
    said = []
    for delta in (update.delta for update in adapter.updates.values()):
        if delta.low_rank is None and delta.factored() is not None:
            what = "it" if delta.caveat is None else f"what it adds {delta.caveat}"
            said.append(f"{delta.kind}: stored as the LoRA that is nearest to {what}")
        elif delta.caveat is not None:
            figures = "energy and error are those of the low-rank part"
            said.append(f"{delta.kind}: {figures}, {delta.caveat}")
    return tuple(dict.fromkeys(said))
