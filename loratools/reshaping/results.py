"""Runs a method on every target, and brings the results to the ranks that a rule chooses."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from loratools.deltas import Additive, Delta
from loratools.deltas.diff import Diff
from loratools.deltas.lora import LoRA
from loratools.io.dtypes import to_torch
from loratools.io.source import Held
from loratools.lowrank.seeds import seed_of
from loratools.methods import MethodOptions, Task
from loratools.reshaping.approximation import Decomposed, approximate, of_factors, of_matrix
from loratools.reshaping.factors import Sum, held, scaling_of, sum_of, widest
from loratools.running.share import Map, split

if TYPE_CHECKING:
    import torch

    from loratools.lowrank.factored import Factored
    from loratools.lowrank.ranks import RankRule, Wanted
    from loratools.lowrank.truncation import Truncation
    from loratools.methods import Combined


@final
@dataclass(frozen=True)
class Part:
    """The changes that adapters make to one target: matrices that have factors, or vectors.

    Attributes:
        numbers: the indices of the adapters that change the target.
        changes: the changes of these adapters, in the same order.
        weights: the weights of all adapters.
        strength: a factor of the result.
    """

    numbers: tuple[int, ...]
    changes: tuple[Additive, ...]
    weights: tuple[float, ...]
    strength: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that is changed."""
        return self.changes[0].shape

    @property
    def is_vector(self) -> bool:
        """Whether the target is a vector, such as a bias."""
        return len(self.shape) == 1

    @property
    def rank(self) -> int:
        """The sum of the ranks of all changes."""
        return sum(lora.rank for lora in self.loras)

    @property
    def loras(self) -> tuple[LoRA, ...]:
        """The factors of each change, in order; empty for a vector."""
        found = (change.factored() for change in self.changes)
        return tuple(lora for lora in found if lora is not None)

    @property
    def dtype(self) -> str:
        """A dtype that holds the stored tensors of all changes."""
        return widest([source.dtype for change in self.changes for source in change.sources])

    def read(self) -> "tuple[Factored, ...]":
        """Read the update of every adapter: rank 0 if it has none, a column for a vector."""
        from loratools.lowrank.factored import Factored

        stored = {n: _product(c) for n, c in zip(self.numbers, self.changes, strict=True)}
        some = stored[self.numbers[0]]
        absent = Factored(some.up[:, :0], some.down[:0])
        return tuple(stored.get(number, absent) for number in range(len(self.weights)))


@final
@dataclass(frozen=True)
class Job:
    """A method with its options, seed and device."""

    method: "Callable[[Task, MethodOptions], Combined]"
    options: MethodOptions
    seed: int
    device: "torch.device | None"

    def result(self, target: str, part: Part) -> "Combined":
        """The method's result for a target, which is the same at each call."""
        seed = seed_of(self.seed, target)
        task = Task(target, part.weights, part.read, seed, part.strength, self.device)
        return self.method(task, self.options)


@final
@dataclass(frozen=True)
class Results:
    """The combined change to each target, and the certificates of those that were truncated."""

    deltas: Mapping[str, Delta]
    truncations: "Mapping[str, Truncation]"
    gap: float


def results(parts: Mapping[str, Part], job: Job, rule: "RankRule | None", each: Map) -> Results:
    """Combine every target; without a rule, the method's results are of low rank and kept exact."""
    vectors = {target: part for target, part in parts.items() if part.is_vector}
    others = {target: part for target, part in parts.items() if not part.is_vector}
    adding, combining = split(each, len(vectors), 10 * len(others))
    work = partial(_vector, job=job)
    changed: dict[str, Delta] = dict(zip(vectors, adding(work, vectors.items()), strict=True))
    if rule is None:
        exact = combining(partial(_exact, job=job), others.items())
        return Results({**changed, **dict(zip(others, exact, strict=True))}, {}, 0.0)
    found = _approximated(others, job, rule, combining)
    return replace(found, deltas={**changed, **found.deltas})


def _vector(item: tuple[str, Part], job: Job) -> Diff:
    """Combine the changes of a vector, which the method sees as matrices with one column."""
    from loratools.lowrank.factored import Factored

    target, part = item
    found = job.result(target, part)
    if isinstance(found, tuple):
        columns = [p.dense() * c for p, c in zip(part.read(), found, strict=True)]
        found = sum(columns[1:], columns[0])
    elif isinstance(found, Factored):
        found = found.dense()
    values = found[:, 0].to("cpu", to_torch(part.dtype))
    return Diff(Held(target, values, part.dtype), scaling_of(1.0, 1, "rank"))


def _exact(item: tuple[str, Part], job: Job) -> LoRA:
    target, part = item
    found = _sum(part, job.result(target, part))
    assert found is not None
    return found.concatenated()


def _sum(part: Part, found: "Combined") -> Sum | None:
    """A method's result as a sum of factors; None if it is a matrix."""
    from loratools.lowrank.factored import Factored

    if isinstance(found, tuple):
        pairs = zip(part.numbers, part.loras, strict=True)
        return replace(sum_of([(found[n], lora) for n, lora in pairs]), dtype=part.dtype)
    if isinstance(found, Factored):
        return Sum(((1.0, held(found, part.shape)),), part.dtype)
    return None


# --- ranks -------------------------------------------------------------------------------------


def _approximated(parts: Mapping[str, Part], job: Job, rule: "RankRule", each: Map) -> Results:
    """Bring every result to its rank.

    Of a matrix, only as many singular values are computed as the rule probably needs. If it needs
    more, the method is run again: that is rare, and matrices are too large to be kept.
    """
    most = rule.max_rank if rule.rank is None else rule.rank

    def decompose(question: "tuple[str, Wanted]") -> Decomposed:
        target, wanted = question
        return _decomposed(target, parts[target], job, wanted, most)

    shapes = {t: (part.shape[0], math.prod(part.shape[1:])) for t, part in parts.items()}
    found = approximate(shapes, decompose, rule, each)
    return Results(found.updates, found.truncations, found.gap)


def _decomposed(
    target: str, part: Part, job: Job, wanted: "Wanted", most: int | None
) -> Decomposed:
    """A method's result with its singular values; for a matrix, only its leading part."""
    import torch

    from loratools.lowrank.dense import leading
    from loratools.lowrank.row_blocks import RowBlocks

    result = job.result(target, part)
    updates = _sum(part, result)
    if updates is not None:
        return of_factors(updates, most)
    assert isinstance(result, torch.Tensor)
    seed = seed_of(job.seed, target)
    found = leading(RowBlocks.of(result), wanted, seed=seed, device=job.device)
    return of_matrix(found, part.shape, part.dtype)


def _product(change: Additive) -> "Factored":
    from loratools.lowrank.factored import Factored

    if (lora := change.factored()) is not None:
        return sum_of([(1.0, lora)]).read()
    column = change.dense_rows(0, change.shape[0])
    return Factored(column, column.new_ones(1, 1))
