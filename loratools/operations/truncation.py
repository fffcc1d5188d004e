"""Updates brought to the ranks that a rule chooses, each with its certificate."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from loratools.deltas.lora import LoRA
from loratools.operations.factors import Sum
from loratools.operations.parallel import Map

if TYPE_CHECKING:
    from loratools.lowrank.factored import CoreSVD
    from loratools.lowrank.ranks import RankRule
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

    @property
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


def decompose(sums: Mapping[str, Sum], rule: "RankRule", each: Map = map) -> dict[str, Decomposed]:
    """Every sum with its singular values, from its factors: O((m + n) R²) each.

    Raises:
        NonFiniteError: a factor holds a NaN or an infinity.
    """
    most = rule.max_rank if rule.rank is None else rule.rank
    return dict(zip(sums, each(partial(_decompose, most=most), sums.values()), strict=True))


def _decompose(updates: Sum, most: int | None) -> Decomposed:
    return Decomposed(updates, updates.svd().leading(most))


def approximate(decomposed: Mapping[str, Decomposed], rule: "RankRule") -> Approximated:
    """Every update at the rank that `rule` gives it: the best approximation there is.

    What stands before a sum's factors stands before the new ones. No rank is below 1: a target
    that is to be stored needs as much.
    """
    if rule.rank is None:
        rule = replace(rule, min_rank=max(1, rule.min_rank))
    spectra = {target: update.spectrum for target, update in decomposed.items()}
    choice = rule.choose(tuple(spectra.values()))
    ranks = dict(zip(decomposed, choice.ranks, strict=True))
    return Approximated(
        updates={target: update.at(ranks[target]) for target, update in decomposed.items()},
        truncations={t: spectrum.truncation(ranks[t]) for t, spectrum in spectra.items()},
        gap=choice.gap,
    )
