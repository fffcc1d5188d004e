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
    addition: 0 where the choice is known to be the best. For targets that are `unsettled` the
    choice may be another one when more of their singular values are known.
    """

    updates: Mapping[str, LoRA]
    truncations: "Mapping[str, Truncation]"
    gap: float
    unsettled: tuple[str, ...] = ()


def decompose_all(sums: Mapping[str, Sum], rule: "RankRule", each: Map) -> dict[str, Decomposed]:
    """Every sum with its singular values, from its factors: O((m + n) R²) each.

    Raises:
        NonFiniteError: a factor holds a NaN or an infinity.
    """
    found = each(partial(decompose, rule=rule), sums.values())
    return dict(zip(sums, found, strict=True))


def decompose(updates: Sum, rule: "RankRule") -> Decomposed:
    """A sum with its singular values, and vectors for as many as the rule can keep.

    Raises:
        NonFiniteError: a factor holds a NaN or an infinity.
    """
    return Decomposed(updates, updates.svd().leading(rule.rank or rule.max_rank))


def storable(rule: "RankRule") -> "RankRule":
    """The rule with no rank below 1: a target that is to be stored needs as much."""
    return rule if rule.rank is not None else replace(rule, min_rank=max(1, rule.min_rank))


def approximate(decomposed: Mapping[str, Decomposed], rule: "RankRule") -> Approximated:
    """Every update at the rank that `rule` gives it, at least 1: the best approximation there is.

    What stands before a sum's factors stands before the new ones.
    """
    rule = storable(rule)
    spectra = {target: update.spectrum for target, update in decomposed.items()}
    choice = rule.choose(tuple(spectra.values()))
    ranks = dict(zip(decomposed, choice.ranks, strict=True))
    open_ones = rule.unsettled(tuple(spectra.values()), choice)
    targets = tuple(decomposed)
    return Approximated(
        updates={target: update.at(ranks[target]) for target, update in decomposed.items()},
        truncations={t: spectrum.truncation(ranks[t]) for t, spectrum in spectra.items()},
        gap=choice.gap,
        unsettled=tuple(targets[number] for number in open_ones),
    )
