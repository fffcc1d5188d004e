"""Combine adapters of one base into one: updates by a method, whole tensors by agreement."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

from loratools import methods, registry
from loratools.adapter import Adapter, Update
from loratools.deltas import Delta
from loratools.deltas.diff import Diff
from loratools.deltas.lora import LoRA
from loratools.errors import LoratoolsError, ShapeMismatchError, UnsupportedError, shorten
from loratools.io.dtypes import to_torch
from loratools.io.source import Held
from loratools.methods import MethodOptions, Task
from loratools.operations.agreement import Policy, agree
from loratools.operations.factors import Sum, held, scaling_of, sum_of, widest
from loratools.operations.parallel import Map
from loratools.operations.rescale import strengths_of
from loratools.operations.similarity import Similarity, measure_similarity
from loratools.operations.truncation import (
    Approximated,
    Decomposed,
    approximate,
    decompose,
)

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.lowrank.factored import Factored
    from loratools.lowrank.ranks import RankRule
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True)
class Combination:
    """How adapters are combined.

    Attributes:
        method: a file in `loratools/methods`.
        where: globs of targets, and what all weights are multiplied with there; the last counts.
        replaced: what happens to whole tensors that differ.
        seed: for the methods that make random choices.
    """

    method: str = "linear"
    options: MethodOptions = field(default_factory=MethodOptions)
    where: Sequence[tuple[str, float]] = ()
    replaced: Policy = "refuse"
    seed: int = 0


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


@final
@dataclass(frozen=True)
class _Parts:
    """What the adapters do to one target: those that change it, with their weights."""

    numbers: tuple[int, ...]
    updates: tuple[Update, ...]
    weights: tuple[float, ...]

    @property
    def deltas(self) -> tuple[Delta, ...]:
        return tuple(update.delta for update in self.updates)

    @property
    def loras(self) -> tuple[LoRA, ...]:
        return tuple(delta for delta in self.deltas if isinstance(delta, LoRA))

    @property
    def dtype(self) -> str:
        """A dtype that holds the stored tensors of all."""
        return widest([source.dtype for delta in self.deltas for source in delta.sources])

    def read(self) -> "tuple[Factored, ...]":
        """Their products; of a vector, as a column."""
        return tuple(_product(delta) for delta in self.deltas)


def combine(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    rule: "RankRule | None",
    combination: Combination,
    each: Map = map,
) -> Combined:
    """One adapter that does what the adapters do together.

    Without a rule nothing is truncated: ranks add up. What an adapter has beside its tensors
    (config, metadata, tokenizer) is the first one's.

    Raises:
        MatchError: a glob matches nothing, or the adapters do not belong to the same weights.
        UnsupportedError: an update is not additive, whole tensors differ, or the method's results
            have no rank to speak of and no rule gives them one.
    """
    _check(adapters, weights, combination)
    method = registry.load(methods, combination.method)
    if rule is None and not method.LOW_RANK:
        raise UnsupportedError(
            f"{combination.method} makes updates of full rank; say how many ranks to keep, with "
            f"--rank or another rule"
        )
    parts = _parts(adapters, weights, combination)
    work = partial(_result, method.combine, combination, rule)
    results = dict(zip(parts, each(work, parts.items()), strict=True))
    vectors = {target: result for target, result in results.items() if isinstance(result, Diff)}
    found = _low_rank({t: r for t, r in results.items() if not isinstance(r, Diff)}, rule, each)
    deltas: dict[str, Delta] = {**vectors, **found.updates}
    updates = {
        target: replace(part.updates[0], delta=deltas[target]) for target, part in parts.items()
    }
    agreement = agree(adapters, combination.replaced)
    adapter = replace(
        adapters[0],
        updates=updates,
        replaced=agreement.replaced,
        rows=agreement.rows,
        copies=(),
        inert={},
    )
    similarity = measure_similarity(adapters, adapter, each)
    ranks = {target: sum(lora.rank for lora in part.loras) for target, part in parts.items()}
    return Combined(adapter, ranks, found.truncations, found.gap, similarity, agreement.notes)


def _check(adapters: Sequence[Adapter], weights: Sequence[float], combination: Combination) -> None:
    if len(weights) != len(adapters):
        raise LoratoolsError(f"{len(weights)} weights for {len(adapters)} adapters")
    if not all(map(math.isfinite, weights)):
        raise LoratoolsError(f"weights must be finite numbers, not {list(weights)}")
    formats = dict.fromkeys(adapter.format for adapter in adapters)
    if len(formats) > 1:
        raise UnsupportedError(f"adapters of one format are expected, not {', '.join(formats)}")
    for adapter in adapters:
        for note in adapter.notes:
            if note.severity == "refusal":
                raise UnsupportedError(f"{adapter.where}: {note.message}")
        for target, update in adapter.updates.items():
            if not isinstance(update.delta, LoRA | Diff):
                raise UnsupportedError(
                    f"{adapter.where}: {shorten(target)}: {update.delta.kind} depends on the "
                    f"weight it changes, and cannot be added to others without it"
                )


def _parts(
    adapters: Sequence[Adapter], weights: Sequence[float], combination: Combination
) -> dict[str, _Parts]:
    targets = tuple(dict.fromkeys(target for adapter in adapters for target in adapter.updates))
    local = strengths_of(targets, combination.where)
    parts = {}
    for target in targets:
        numbers = tuple(n for n, adapter in enumerate(adapters) if target in adapter.updates)
        part = _Parts(
            numbers=numbers,
            updates=tuple(adapters[n].updates[target] for n in numbers),
            weights=tuple(weights[n] * local[target] for n in numbers),
        )
        _check_alike(adapters, target, part)
        parts[target] = part
    return parts


def _check_alike(adapters: Sequence[Adapter], target: str, part: _Parts) -> None:
    first = part.updates[0]
    for number, update in zip(part.numbers, part.updates, strict=True):
        if update.delta.shape != first.delta.shape or update.is_embedding != first.is_embedding:
            raise ShapeMismatchError(
                f"{shorten(target)}: changes a weight {list(update.delta.shape)} in "
                f"{adapters[number].where} and {list(first.delta.shape)} in "
                f"{adapters[part.numbers[0]].where}; are they of one base?"
            )


# --- one target --------------------------------------------------------------------------------


def _result(
    method: Any, combination: Combination, rule: "RankRule | None", item: tuple[str, _Parts]
) -> "Sum | Decomposed | Diff":
    """What the method makes of one target: a sum of factors, or of a matrix its leading part."""
    target, part = item
    task = Task(target, part.weights, part.read, seed_of(combination.seed, target))
    found = method(task, combination.options)
    if isinstance(part.deltas[0], Diff):
        return _vector(target, part, found)
    if isinstance(found, tuple):
        return sum_of(list(zip(found, part.loras, strict=True)))
    shape = part.deltas[0].shape
    if hasattr(found, "down"):
        return Sum(((1.0, held(found, shape)),), part.dtype)
    assert rule is not None
    return _leading(found, shape, part.dtype, rule, task.seed)


def _leading(
    matrix: "Tensor", shape: tuple[int, ...], dtype: str, rule: "RankRule", seed: int
) -> Decomposed:
    """The leading part of a matrix, as much as the rule may ask for."""
    import torch

    from loratools.lowrank.dense import leading
    from loratools.lowrank.factored import CoreSVD, Factored
    from loratools.lowrank.rows import RowBlocks
    from loratools.lowrank.truncation import TargetSpectrum

    blocks = RowBlocks.of(matrix)
    unknown = TargetSpectrum(*blocks.shape, torch.zeros(0).numpy())
    found = leading(blocks, rule.wanted([unknown]), seed=seed)
    identity = torch.eye(len(found.values), dtype=torch.float64)
    updates = Sum(((1.0, held(Factored(found.up, found.down), shape)),), dtype)
    return Decomposed(updates, CoreSVD(found.values, identity, identity), found.total)


def _low_rank(
    results: "Mapping[str, Sum | Decomposed]", rule: "RankRule | None", each: Map
) -> Approximated:
    sums = {target: result for target, result in results.items() if isinstance(result, Sum)}
    if rule is None:
        assert len(sums) == len(results)
        return Approximated({target: each.concatenated() for target, each in sums.items()}, {}, 0.0)
    decomposed = decompose(sums, rule, each)
    known = {t: result for t, result in results.items() if isinstance(result, Decomposed)}
    return approximate({target: (decomposed | known)[target] for target in results}, rule)


def _vector(target: str, part: _Parts, found: Any) -> Diff:
    """A bias: the method's result for its column."""
    if isinstance(found, tuple):
        columns = [p.dense() * c for p, c in zip(part.read(), found, strict=True)]
        found = sum(columns[1:], columns[0])
    elif hasattr(found, "down"):
        found = found.dense()
    values = found[:, 0].to(to_torch(part.dtype))
    return Diff(Held(target, values, part.dtype), scaling_of(1.0, 1, "rank"))


def _product(delta: Delta) -> "Factored":
    from loratools.lowrank.factored import Factored

    if isinstance(delta, LoRA):
        return sum_of([(1.0, delta)]).read()
    assert isinstance(delta, Diff)
    column = delta.values.read().double()[:, None] * delta.scaling.value
    return Factored(column, column.new_ones(1, 1))


def seed_of(seed: int, target: str) -> int:
    """A seed for one target, whatever the others are."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{target}".encode()).digest()[:7])
