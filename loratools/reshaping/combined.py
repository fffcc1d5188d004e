"""Combine adapters of one base into one: updates by a method, whole tensors by agreement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

from loratools import methods, registry
from loratools.adapter import Adapter
from loratools.deltas import Additive
from loratools.errors import (
    OptionError,
    ShapeMismatchError,
    UnsupportedError,
    check_finite,
    listing,
    shorten,
)
from loratools.idle import NOTHING_LEFT
from loratools.merging.weights import weights_for
from loratools.methods import MethodOptions, check_options
from loratools.names.bases import different_bases
from loratools.reshaping.agreement import Agreement, Policy, agree
from loratools.reshaping.alignment import aligned, strangers
from loratools.reshaping.rescaled import strengths_of
from loratools.reshaping.results import Job, Part, results
from loratools.reshaping.similarity import Similarity, measure_similarity
from loratools.running.parallel import Map

if TYPE_CHECKING:
    import torch

    from loratools.lowrank.ranks import RankRule
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True)
class Combination:
    """How adapters are combined.

    Attributes:
        method: a file in `loratools/methods`.
        where: globs of targets, and what the result is multiplied with there; the last counts.
        replaced: what happens to whole tensors that differ.
        seed: for the methods that make random choices.
        device: where the methods that need matrices compute; the CPU if None.
    """

    method: str = "linear"
    options: MethodOptions = field(default_factory=MethodOptions)
    where: Sequence[tuple[str, float]] = ()
    replaced: Policy = "refuse"
    seed: int = 0
    device: "torch.device | None" = None

    def __post_init__(self) -> None:
        """Refuse strengths that are no numbers."""
        check_finite("strength", *(strength for _, strength in self.where))


@final
@dataclass(frozen=True)
class Combined:
    """The combined adapter, what was lost at its ranks, and how the inputs go together.

    `ranks` are those of the updates' factors together, by target. `truncations` is empty where
    nothing was truncated.
    """

    adapter: Adapter
    ranks: Mapping[str, int]
    truncations: "Mapping[str, Truncation]"
    gap: float
    similarity: Similarity
    notes: tuple[str, ...]


def combined(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rule: "RankRule | None",
    combination: Combination,
    each: Map = map,
) -> Combined:
    """One adapter that does what the adapters do together.

    Without a rule nothing is truncated: ranks add up. Modules have the names of the first adapter,
    and what an adapter has beside its tensors (config, metadata, tokenizer) is the first one's.

    Raises:
        MatchError: a glob matches nothing, the adapters do not belong to the same weights, or it
            cannot be told whether two of their names mean one module.
        UnsupportedError: an update is not additive, whole tensors differ, or the method's results
            have no rank to speak of and no rule gives them one.
    """
    _check(adapters, weights)
    adapters, renamed = aligned(adapters)
    parts = _parts(adapters, weights, combination)
    method = registry.load(methods, combination.method)
    check_options(combination.method, method.OPTIONS, combination.options)
    if rule is None and not method.LOW_RANK:
        raise OptionError(
            f"{combination.method} makes updates of full rank; say how many ranks to keep, with "
            f"--rank or another rule"
        )
    job = Job(method.combine, combination.options, combination.seed, combination.device)
    found = results(parts, job, rule, each)
    updates = {
        target: replace(adapters[part.numbers[0]].updates[target], delta=found.deltas[target])
        for target, part in parts.items()
    }
    agreement = agree(adapters, combination.replaced)
    said = (*different_bases(adapters), *renamed, *strangers(adapters))
    notes = (*said, *_unweighted(agreement, weights), *agreement.notes)
    adapter = replace(
        adapters[0],
        updates=updates,
        replaced=agreement.replaced,
        rows=agreement.rows,
        copies=(),
        inert={},
    )
    similarity = measure_similarity(adapters, adapter, each)
    if similarity.total is not None and similarity.total.is_nothing_left:
        notes = (*notes, NOTHING_LEFT)
    ranks = {target: part.rank for target, part in parts.items()}
    return Combined(adapter, ranks, found.truncations, found.gap, similarity, notes)


def _unweighted(agreement: Agreement, weights: Sequence[float]) -> tuple[str, ...]:
    """What is to be said of whole tensors where weights are not 1."""
    trained = [target for target, whole in agreement.replaced.items() if whole.is_trained]
    if all(weight == 1 for weight in weights) or not (trained or agreement.rows):
        return ()
    whole = [*trained, *agreement.rows]
    verb = "takes" if len(whole) == 1 else "take"
    return (f"{listing(whole)} {verb} the place of the base's tensors, at any weight",)


def _check(adapters: Sequence[Adapter], weights: Sequence[float]) -> None:
    if not adapters:
        raise OptionError("there are no adapters to combine")
    weights_for(weights, len(adapters))
    formats = dict.fromkeys(a.filed.dialect for a in adapters if a.filed is not None)
    if len(formats) > 1:
        raise UnsupportedError(f"adapters of one format are expected, not {', '.join(formats)}")
    for adapter in adapters:
        adapter.check_usable()


def _additive(adapter: Adapter, target: str) -> Additive:
    """An update that adds a vector, or a matrix that has factors."""
    where, delta = f"{adapter.where}: {shorten(target)}", adapter.updates[target].delta
    if delta.additive is None:
        raise UnsupportedError(
            f"{where}: {delta.kind} depends on the weight it changes, and cannot be added to "
            f"others without it; see --base"
        )
    if len(delta.shape) > 1 and delta.additive.factored() is None:
        raise UnsupportedError(f"{where}: a matrix that is stored whole has no factors to combine")
    return delta.additive


def _parts(
    adapters: Sequence[Adapter], weights: Sequence[float], combination: Combination
) -> dict[str, Part]:
    changes = [{t: _additive(adapter, t) for t in adapter.updates} for adapter in adapters]
    targets = tuple(dict.fromkeys(target for found in changes for target in found))
    local = strengths_of(targets, combination.where)
    parts = {}
    for target in targets:
        numbers = tuple(n for n, found in enumerate(changes) if target in found)
        part = Part(
            numbers=numbers,
            changes=tuple(changes[n][target] for n in numbers),
            weights=tuple(weights),
            strength=local[target],
        )
        _check_alike(adapters, target, part)
        parts[target] = part
    return parts


def _check_alike(adapters: Sequence[Adapter], target: str, part: Part) -> None:
    first = adapters[part.numbers[0]].updates[target]
    for number in part.numbers:
        update = adapters[number].updates[target]
        is_vector = len(update.delta.shape) == 1
        if is_vector != part.is_vector or update.is_embedding != first.is_embedding:
            raise UnsupportedError(
                f"{shorten(target)}: is changed in another way in {adapters[number].where} than in "
                f"{adapters[part.numbers[0]].where}"
            )
        if update.delta.shape != first.delta.shape:
            raise ShapeMismatchError(
                f"{shorten(target)}: changes a weight {list(update.delta.shape)} in "
                f"{adapters[number].where} and {list(first.delta.shape)} in "
                f"{adapters[part.numbers[0]].where}; are they of one base?"
            )
