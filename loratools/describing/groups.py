"""Groups of an adapter's updates that are equal, but for the numbers in the names of targets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from loratools.deltas import Delta, parameters_of
from loratools.deltas.lora import Scaling
from loratools.names.grouping import pattern_of
from loratools.parts import Update


@final
@dataclass(frozen=True)
class TargetGroup:
    """Equal updates of targets whose names differ only in numbers.

    `rank`, `alpha`, `scaling`, `rule` and `alpha_from` are None for a kind that holds no LoRA.
    """

    pattern: str
    kind: str
    shape: tuple[int, ...]
    rank: int | None
    alpha: float | None
    scaling: float | None
    rule: str | None
    alpha_from: str | None
    count: int
    parameters: int


@final
@dataclass
class _Tally:
    """The first of a group of equal updates, with the numbers of updates and of their elements."""

    delta: Delta
    count: int = 0
    parameters: int = 0


def groups_of(updates: Mapping[str, Update]) -> Iterator[TargetGroup]:
    """The groups of equal updates, in the order of their first targets."""
    tallies: dict[tuple[object, ...], _Tally] = {}
    numbers: dict[Scaling | None, int] = {}
    # By identity: most updates share one scaling object, and hashing it each time is slow.
    known: dict[int, int] = {}
    for target, update in updates.items():
        delta = update.delta
        rank, scaling = _rank_and_scaling(delta)
        number = known.get(id(scaling))
        if number is None:
            number = known[id(scaling)] = numbers.setdefault(scaling, len(numbers))
        key = (pattern_of(target), delta.kind, delta.shape, rank, number)
        tally = tallies.get(key)
        if tally is None:
            tally = tallies[key] = _Tally(delta)
        tally.count += 1
        tally.parameters += parameters_of(delta)
    for (pattern, *_), tally in tallies.items():
        yield _described(str(pattern), tally)


def single(updates: Mapping[str, Update]) -> Iterator[TargetGroup]:
    """A group for each update, whose pattern is the name of its target."""
    for target, update in updates.items():
        yield _described(target, _Tally(update.delta, 1, parameters_of(update.delta)))


def _described(pattern: str, tally: _Tally) -> TargetGroup:
    rank, scaling = _rank_and_scaling(tally.delta)
    return TargetGroup(
        pattern=pattern,
        kind=tally.delta.kind,
        shape=tally.delta.shape,
        rank=rank,
        alpha=scaling.alpha if scaling else None,
        scaling=scaling.value if scaling else None,
        rule=scaling.rule if scaling else None,
        alpha_from=scaling.origin if scaling else None,
        count=tally.count,
        parameters=tally.parameters,
    )


def _rank_and_scaling(delta: Delta) -> tuple[int | None, Scaling | None]:
    """The rank of a change's factors, and its scaling; None for a change that is stored whole.

    The rank of a product of several factors is the one that alpha is divided by, and not that of
    its exact factors, if it has any.
    """
    lora, scaling = delta.low_rank, delta.scaling
    if lora is not None:
        return lora.rank, lora.scaling
    is_whole = delta.additive is not None and delta.factored() is None
    if scaling is None or is_whole:
        return None, None
    return scaling.rank, scaling
