"""Ranks chosen over all targets, where singular values are found out as far as the rule needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, final, runtime_checkable

import numpy as np

from loratools.lowrank.ranks import Choice, RankRule, Wanted
from loratools.lowrank.truncation import TargetSpectrum


@runtime_checkable
class Found(Protocol):
    """What was found out about one target."""

    def spectrum(self) -> TargetSpectrum:
        """Its leading singular values."""
        ...


_F = TypeVar("_F", bound=Found)
#: Finds out about some targets, by their numbers, as much as is wanted of each.
Find = Callable[[Sequence[tuple[int, Wanted]]], Sequence[_F]]


@final
@dataclass(frozen=True)
class Settled(Generic[_F]):
    """What was found out, and the ranks chosen by it."""

    found: tuple[_F, ...]
    choice: Choice


def first_question(shapes: Sequence[tuple[int, int]], rule: RankRule) -> Wanted:
    """What to find out about all targets before anything is known of them."""
    return rule.wanted([TargetSpectrum(m, n, np.empty(0), math.inf) for m, n in shapes])


def settle(first: Sequence[_F], wanted: Wanted, rule: RankRule, find: Find[_F]) -> Settled[_F]:
    """Choose, and find out more about the targets whose rank that could change.

    `first` is what the first question, `wanted`, found. The questions depend on the answers alone,
    so an interrupted run asks the same ones again.
    """
    found = list(first)
    while True:
        spectra = [each.spectrum() for each in found]
        choice = rule.choose(spectra)
        known = [len(spectrum.values) for spectrum in spectra]
        questions = [
            (i, replace(wanted, rank=max(choice.ranks[i] + rule.multiple_of, 2 * known[i])))
            for i in rule.unsettled(spectra, choice)
        ]
        answers = list(find(questions))
        for (i, _), answer in zip(questions, answers, strict=True):
            found[i] = answer
        # Values that are zero up to rounding are never found, however many are asked for.
        if all(
            len(answer.spectrum().values) <= known[i]
            for (i, _), answer in zip(questions, answers, strict=True)
        ):
            return Settled(tuple(found), rule.choose([each.spectrum() for each in found]))
