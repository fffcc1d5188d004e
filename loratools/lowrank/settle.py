"""Chooses ranks over all targets while only as many singular values are computed as it takes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, final, runtime_checkable

import numpy as np

from loratools.lowrank.ranks import Choice, RankRule, Wanted
from loratools.lowrank.truncation import TargetSpectrum


@runtime_checkable
class Found(Protocol):
    """The decomposition of one target's update, as far as it was computed."""

    def spectrum(self) -> TargetSpectrum:
        """The leading singular values of the update."""
        ...


_F = TypeVar("_F", bound=Found)
#: Decomposes some targets, given by their index, each as far as is wanted.
Find = Callable[[Sequence[tuple[int, Wanted]]], Sequence[_F]]


@final
@dataclass(frozen=True)
class Settled(Generic[_F]):
    """The decompositions of all targets, and the ranks chosen by them."""

    found: tuple[_F, ...]
    choice: Choice


def first_question(shapes: Sequence[tuple[int, int]], rule: RankRule) -> Wanted:
    """How far each target is decomposed before any singular value is known."""
    return rule.wanted([TargetSpectrum(m, n, np.empty(0), math.inf) for m, n in shapes])


def settle(first: Sequence[_F], wanted: Wanted, rule: RankRule, find: Find[_F]) -> Settled[_F]:
    """Choose the ranks, and decompose targets further as long as that could change the choice.

    `first` holds the answers to the first question, `wanted`. Each question depends on earlier
    answers alone, so a run that was interrupted asks the same ones again.
    """
    found = list(first)
    while True:
        spectra = [each.spectrum() for each in found]
        choice = rule.choose(spectra)
        known = [len(spectrum.values) for spectrum in spectra]
        questions = [
            # At least one step beyond the chosen rank has to be known; doubling keeps the number of
            # rounds small.
            (i, replace(wanted, rank=max(choice.ranks[i] + rule.multiple_of, 2 * known[i])))
            for i in rule.unsettled(spectra, choice)
        ]
        answers = list(find(questions))
        for (i, _), answer in zip(questions, answers, strict=True):
            found[i] = answer
        # No answer has more values than before: the rest are zero up to rounding, and asking again
        # would never end.
        if all(
            len(answer.spectrum().values) <= known[i]
            for (i, _), answer in zip(questions, answers, strict=True)
        ):
            return Settled(tuple(found), rule.choose([each.spectrum() for each in found]))
