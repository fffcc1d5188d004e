"""Approximates updates at the ranks that a rule chooses, each with its certificate."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from loratools.deltas.lora import LoRA
from loratools.errors import NonFiniteError, shorten
from loratools.reshaping.factors import LARGEST, Sum, held
from loratools.running.share import Map

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
    """An update as a sum of products of factors, and the SVD of that sum.

    `energy` is the energy of the whole update if the sum is only its leading part; else None.
    """

    updates: Sum
    svd: "CoreSVD"
    energy: float | None = None

    def spectrum(self) -> "TargetSpectrum":
        """The singular values of the update, as a rule for ranks takes them."""
        from loratools.lowrank.truncation import TargetSpectrum

        return TargetSpectrum(*self.updates.shape, self.svd.values.numpy(), self.energy)

    def at(self, rank: int) -> LoRA:
        """The best approximation of this rank; exact if the stored factors have no larger rank."""
        if rank >= self.updates.rank:
            return self.updates.concatenated(rank)
        return self.updates.truncated(self.svd, rank)


@final
@dataclass(frozen=True)
class Approximated:
    """Updates at the chosen ranks and their certificates, by target.

    `gap` is the largest additional share of all energy that another choice within the same budget
    could have kept: 0 if the choice is known to be the best.
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
    """Approximate every update at the rank that `rule` gives it, and at least at rank 1.

    Formats cannot store rank 0. `decompose` computes the singular values of one target, as many as
    are wanted; it is called again for a target if the rule needs more.

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
            # Not written with `>`, so that it is true of a NaN as well.
            if not update.svd.values[:1].sum() <= LARGEST:
                raise NonFiniteError(
                    f"{shorten(targets[i])}: the update is too large: above {LARGEST}",
                    tensor=targets[i],
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
    """Memory for the decompositions of sums, by target, all in one allocation.

    See `CoreSVD.held_in` for the reason. `most` is the largest rank that can be chosen.
    """
    import torch

    sizes = []
    for updates in sums.values():
        values = min(updates.rank, *updates.shape)
        sizes.append(values + 2 * updates.rank * min(values, most or values))
    spaces = torch.split(torch.empty(sum(sizes), dtype=torch.float64), sizes)
    return dict(zip(sums, spaces, strict=True))


def of_factors(updates: Sum, most: int | None) -> Decomposed:
    """Decompose a sum by its factors; singular vectors are kept for at most `most` ranks.

    Raises:
        NonFiniteError: a factor holds a NaN or an infinity.
    """
    return Decomposed(updates, updates.svd().leading(most))


def of_matrix(found: "Leading", shape: tuple[int, ...], dtype: str) -> Decomposed:
    """The leading part of a matrix as a decomposed update of a weight with this shape."""
    import torch

    from loratools.lowrank.factored import CoreSVD, Factored

    # The factors of the leading part are its singular vectors already, so nothing mixes them.
    identity = torch.eye(len(found.values), dtype=torch.float64)
    updates = Sum(((1.0, held(Factored(found.up, found.down), shape)),), dtype)
    return Decomposed(updates, CoreSVD(found.values, identity, identity), found.total)
