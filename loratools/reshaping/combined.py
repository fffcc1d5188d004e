"""Combines adapters of one base into one: updates by a method, whole tensors if they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final, get_args

from loratools import methods, registry
from loratools.adapter import Adapter
from loratools.arguments import checked_fields
from loratools.checks import check_choice, check_finite
from loratools.deltas import Additive
from loratools.errors import OptionError, ShapeMismatchError, UnsupportedError, listing, shorten
from loratools.idle import NOTHING_LEFT
from loratools.merging.weights import weights_for
from loratools.methods import MethodOptions, check_options
from loratools.names.bases import different_bases
from loratools.reshaping.agreement import Agreement, Policy, agree
from loratools.reshaping.alignment import aligned, check_one_model, strangers
from loratools.reshaping.rescaled import strengths_of
from loratools.reshaping.results import Job, Part, results
from loratools.reshaping.similarity import Similarity, measure_similarity
from loratools.running.share import Map, split
from loratools.showing.shown import Brief
from loratools.typed import command, rank_options, valued

if TYPE_CHECKING:
    import torch

    from loratools.lowrank.ranks import RankRule
    from loratools.lowrank.truncation import Truncation


@checked_fields
@final
@dataclass(frozen=True, repr=False)
class Combination(Brief):
    """The choices of how adapters are combined.

    Attributes:
        method: how the updates are combined: `linear`, `ties`, `dare_ties`, `knots` or others, of
            which the message about an unknown one has a list.
        options: the options of the method.
        where: multiply the strength of targets that match by F, for each pair of a glob and F:
            `[("*.attn.*", 0.5)]`; of several that match, the last counts.
        replaced: what to do if adapters store one tensor whole, and differently: `refuse` them,
            take the `first` adapter's, or the `average`.
        seed: the seed of random choices.
        device: the device that computes; the CPU if None.

    Example:
        >>> import loratools
        >>> options = loratools.MethodOptions(density=0.5)
        >>> combination = loratools.Combination(method="ties", options=options)
        >>> pair = ["fixtures/adapters/combine-r4", "fixtures/adapters/combine-r8"]
        >>> len(loratools.combine(pair, combination=combination, rank=8))
        20
    """

    method: str = "linear"
    options: MethodOptions = field(default_factory=MethodOptions)
    where: Sequence[tuple[str, float]] = ()
    replaced: Policy = "refuse"
    seed: int = 0
    device: "torch.device | None" = None

    def __post_init__(self) -> None:
        """Refuse strengths that are not finite, and an unknown method, policy or device."""
        check_choice("method", self.method, registry.names(methods))
        check_choice("replaced", self.replaced, get_args(Policy))
        check_finite("strength", *(strength for _, strength in self.where))
        if self.device is not None:
            from loratools.lowrank.devices import usable_device

            usable_device(self.device)


@final
@dataclass(frozen=True)
class Combined:
    """The combined adapter, the certificates of its ranks, and the similarity of the inputs.

    `ranks` are the sums of the ranks of all updates of a target. `truncations` is empty if nothing
    was truncated.
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
    """Combine adapters into one that has the effect of all of them together.

    Without a rule nothing is truncated: ranks add up. The first adapter's names of modules, config,
    metadata and tokenizer are kept.

    Raises:
        MatchError: a glob matches nothing, or it is unclear whether two names mean one module.
        OptionError: the method makes updates of full rank, and no rule limits their rank; it does
            not take an option; or the number of weights is wrong.
        ShapeMismatchError: two adapters change weights of different shapes at one target.
        UnsupportedError: an update is not additive, whole tensors differ, or the adapters have
            different formats, or are for models of which none has the modules of all.
    """
    _check(adapters, weights)
    adapters, renamed = aligned(adapters)
    parts = _parts(adapters, weights, combination)
    method = registry.load(methods, combination.method)
    taken = {name: registry.load(methods, name).OPTIONS for name in registry.names(methods)}
    check_options(combination.method, combination.options, taken)
    if rule is None and not method.LOW_RANK:
        raise OptionError(
            f"{combination.method} makes updates of full rank",
            hint=f"say how many ranks to keep, with {rank_options()}",
        )
    job = Job(method.combine, combination.options, combination.seed, combination.device)
    effort = effort_of(combination.method, is_exact=rule is None)
    combining, comparing = split(each, effort, 1)
    found = results(parts, job, rule, combining)
    updates = {
        target: replace(adapters[part.numbers[0]].updates[target], delta=found.deltas[target])
        for target, part in parts.items()
    }
    agreement = agree(adapters, combination.replaced)
    said = (*different_bases(adapters), *renamed, *strangers(adapters))
    notes = (*said, *_unweighted(agreement, weights), *agreement.notes)
    filed = adapters[0].filed
    adapter = replace(
        adapters[0],
        updates=updates,
        replaced=agreement.replaced,
        rows=agreement.rows,
        copies=(),
        inert={
            key: a.inert[key] for a in adapters for key in agreement.passengers if key in a.inert
        },
        filed=filed and replace(filed, passengers=agreement.passengers),
    )
    similarity = measure_similarity(adapters, adapter, comparing)
    if similarity.total is not None and similarity.total.is_nothing_left:
        notes = (*notes, NOTHING_LEFT)
    ranks = {target: part.rank for target, part in parts.items()}
    return Combined(adapter, ranks, found.truncations, found.gap, similarity, notes)


def effort_of(method: str, *, is_exact: bool) -> int:
    """How many times longer a method takes, about, than the comparison of the adapters does."""
    if registry.load(methods, method).LOW_RANK:
        return 0 if is_exact else 1
    return 50


def _unweighted(agreement: Agreement, weights: Sequence[float]) -> tuple[str, ...]:
    """A note that weights other than 1 do not apply to whole tensors, if there are any."""
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
    check_one_model(adapters)
    formats = {a.filed.dialect: a.where for a in reversed(adapters) if a.filed is not None}
    if len(formats) > 1:
        (other, elsewhere), *_, (first, where) = formats.items()
        raise UnsupportedError(
            f"{elsewhere}: is in the format {other}, and {where} in the format {first}",
            file=elsewhere,
            hint=f"`{command('convert', valued('to'))}` writes one in the format of the other",
        )
    for adapter in adapters:
        adapter.check_usable()


def _additive(adapter: Adapter, target: str) -> Additive:
    """An update as an additive change with factors, or of a vector; others are refused."""
    where, delta = f"{adapter.where}: {shorten(target)}", adapter.updates[target].delta
    if delta.additive is None:
        raise UnsupportedError(
            f"{where}: {delta.kind} depends on the weight it changes, and cannot be added to "
            f"others without it",
            hint=f"name that model with {valued('base')}, "
            f"and the ranks to keep with {valued('rank')}",
        )
    if len(delta.shape) > 1 and delta.additive.factored() is None:
        raise UnsupportedError(
            f"{where}: {delta.kind} has no factors of its own to combine",
            hint=f"`{command('merge')}` adds it, and other adapters beside it, to a base",
        )
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
        differs = (update.is_embedding, update.is_shared) != (first.is_embedding, first.is_shared)
        if is_vector != part.is_vector or differs:
            raise UnsupportedError(
                f"{shorten(target)}: is changed in another way in {adapters[number].where} than in "
                f"{adapters[part.numbers[0]].where}",
                tensor=target,
            )
        if update.delta.shape != first.delta.shape:
            raise ShapeMismatchError(
                f"{shorten(target)}: changes a weight {list(update.delta.shape)} in "
                f"{adapters[number].where} and {list(first.delta.shape)} in "
                f"{adapters[part.numbers[0]].where}",
                tensor=target,
                hint="are they of one base?",
            )
