"""Updates brought to the ranks that a rule chooses, each with its certificate."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from loratools.deltas.lora import LoRA
from loratools.errors import NonFiniteError, shorten
from loratools.reshaping.factors import LARGEST, Sum, held
from loratools.running.parallel import Map

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from loratools.lowrank.dense import Leading
    from loratools.lowrank.factored import CoreSVD
    from loratools.lowrank.ranks import RankRule, Wanted
    from loratools.lowrank.truncation import TargetSpectrum, Truncation


@final
@dataclass(frozen=True, eq=False)
class Decomposed:
    """An update as a sum of products, and the singular values of that sum.

    `energy` is that of the whole update where the sum holds only its leading part.
    """

    updates: Sum
    svd: "CoreSVD"
    energy: float | None = None

    def spectrum(self) -> "TargetSpectrum":
        """What a rule has to know of it."""
        from loratools.lowrank.truncation import TargetSpectrum

        return TargetSpectrum(*self.updates.shape, self.svd.values.numpy(), self.energy)

    def at(self, rank: int) -> LoRA:
        """Its best approximation of a rank; exact where that is not below the rank it has."""
        if rank >= self.updates.rank:
            return self.updates.concatenated(rank)
        return self.updates.truncated(self.svd, rank)


@final
@dataclass(frozen=True)
class Approximated:
    """Updates at the ranks that were chosen, by target, and what was lost.

    `gap` is the share of all energy that another choice within the same budget might have kept in
    addition: 0 where the choice is known to be the best.
    """

    updates: Mapping[str, LoRA]
    truncations: "Mapping[str, Truncation]"
    gap: float


def approximate(
    shapes: Mapping[str, tuple[int, int]],
    decompose: "Callable[[tuple[str, Wanted]], Decomposed]",
    rule: "RankRule",
    each: Map,
) -> Approximated:
    """Every update at the rank that `rule` gives it, and at least 1, as what is stored has one.

    `decompose` finds out about one target, and again where that was not enough for the rule.

    Raises:
        NonFiniteError: an update is too large for its energy to be a number.
    """
    from loratools.lowrank.settle import first_question, settle

    if rule.rank is None:
        rule = replace(rule, min_rank=max(1, rule.min_rank))
    targets = tuple(shapes)

    def find(questions: "Sequence[tuple[int, Wanted]]") -> list[Decomposed]:
        found = list(each(decompose, [(targets[i], wanted) for i, wanted in questions]))
        for (i, _), update in zip(questions, found, strict=True):
            if not update.svd.values[:1].sum() <= LARGEST:  # true of a NaN as well
                raise NonFiniteError(
                    f"{shorten(targets[i])}: the update is too large: above {LARGEST}"
                )
        return found

    wanted = first_question(tuple(shapes.values()), rule)
    settled = settle(find([(i, wanted) for i in range(len(targets))]), wanted, rule, find)
    ranked = list(zip(targets, settled.found, settled.choice.ranks, strict=True))
    return Approximated(
        updates={target: update.at(rank) for target, update, rank in ranked},
        truncations={t: update.spectrum().truncation(rank) for t, update, rank in ranked},
        gap=settled.choice.gap,
    )


def rooms(sums: Mapping[str, Sum], most: int | None) -> "dict[str, Tensor]":
    """Memory in one piece for what is kept of the decompositions of sums, by target."""
    import torch

    sizes = []
    for updates in sums.values():
        values = min(updates.rank, *updates.shape)
        sizes.append(values + 2 * updates.rank * min(values, most or values))
    spaces = torch.split(torch.empty(sum(sizes), dtype=torch.float64), sizes)
    return dict(zip(sums, spaces, strict=True))


def of_factors(updates: Sum, most: int | None) -> Decomposed:
    """A sum with its singular values, from its factors, and vectors for at most so many ranks.

    Raises:
        NonFiniteError: a factor holds a NaN or an infinity.
    """
    return Decomposed(updates, updates.svd().leading(most))


def of_matrix(found: "Leading", shape: tuple[int, ...], dtype: str) -> Decomposed:
    """The leading part of a matrix, for a weight of this shape and factors of this dtype."""
    import torch

    from loratools.lowrank.factored import CoreSVD, Factored

    identity = torch.eye(len(found.values), dtype=torch.float64)
    updates = Sum(((1.0, held(Factored(found.up, found.down), shape)),), dtype)
    return Decomposed(updates, CoreSVD(found.values, identity, identity), found.total)
