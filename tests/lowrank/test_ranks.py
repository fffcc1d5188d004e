"""A rule never keeps more ranks than it must, nor spends a budget less well than is possible."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.errors import LoratoolsError
from loratools.lowrank.ranks import Choice, RankRule, Wanted
from loratools.lowrank.truncation import TargetSpectrum, Truncation, together
from tests.narrowing import present


def spectrum(values: Sequence[float], m: int = 50, n: int = 60) -> TargetSpectrum:
    return TargetSpectrum(m, n, np.array(values, dtype=float))


def known(target: TargetSpectrum, count: int) -> TargetSpectrum:
    """The same target, of which only the leading values are known."""
    energy = float(np.square(target.values).sum())
    return TargetSpectrum(target.m, target.n, target.values[:count], energy)


def kept(targets: list[TargetSpectrum], ranks: Sequence[int]) -> int:
    """Exact for values that are whole numbers."""
    return sum(
        int(value) ** 2
        for target, rank in zip(targets, ranks, strict=True)
        for value in target.values[:rank]
    )


# Whole numbers, so that all sums of squares are exact in float64.
falling = st.lists(st.integers(1, 30), max_size=5).map(lambda values: sorted(values, reverse=True))
some = falling.filter(bool)


@st.composite
def targets_of(draw: st.DrawFn, size: int = 3) -> list[TargetSpectrum]:
    shapes = st.tuples(st.integers(5, 9), st.integers(5, 9))
    drawn = draw(st.lists(st.tuples(shapes, falling), min_size=1, max_size=size))
    return [spectrum(values, m, n) for (m, n), values in drawn]


@st.composite
def modifiers(draw: st.DrawFn) -> dict[str, Any]:
    step = draw(st.integers(1, 3))
    least = draw(st.integers(0, 3))
    most = draw(st.none() | st.integers(max(1, -(-least // step)) * step, 9))
    uniform = draw(st.booleans())
    return {"multiple_of": step, "min_rank": least, "max_rank": most, "uniform": uniform}


def allowed(rule: RankRule, longest: int) -> range:
    """All ranks that the modifiers leave, up to all of the longest spectrum."""
    step = rule.multiple_of
    least = math.ceil(rule.min_rank / step) * step
    most = rule.max_rank or max(least, math.ceil(longest / step) * step)
    return range(least, most + 1, step)


# --- shares of the energy, and errors ------------------------------------------------------------


@given(values=some, data=st.data())
def test_the_share_of_a_rank_asks_for_that_rank(values: list[int], data: st.DataObject) -> None:
    """The boundary itself, in whatever way its share was rounded."""
    target = spectrum(values)
    rank = data.draw(st.integers(1, len(values)))
    share = Fraction(kept([target], [rank]), kept([target], [len(values)]))
    assert RankRule(energy=float(share)).choose([target]) == Choice((rank,))
    assert RankRule(error=math.sqrt(1 - share)).choose([target]) == Choice((rank,))


@given(values=some, share=st.floats(0.01, 1))
def test_the_rank_of_a_share_is_the_smallest(values: list[int], share: float) -> None:
    target = spectrum(values)
    total = kept([target], [len(values)])
    (rank,) = RankRule(energy=share).choose([target]).ranks
    assert kept([target], [rank]) >= total * (Fraction(share) - Fraction(2**-50))
    assert rank == 0 or kept([target], [rank - 1]) < total * Fraction(share)


@given(values=some, error=st.floats(0, 1, exclude_max=True))
def test_the_rank_of_an_error_is_the_smallest(values: list[int], error: float) -> None:
    target = spectrum(values)
    total = kept([target], [len(values)])
    (rank,) = RankRule(error=error).choose([target]).ranks
    lost = [total - kept([target], [rank]), total - kept([target], [max(0, rank - 1)])]
    assert lost[0] <= total * Fraction(error) ** 2 * (1 + Fraction(2**-49))
    assert rank == 0 or lost[1] > total * Fraction(error) ** 2


def test_nine_tenths_of_nine_and_one_are_nine() -> None:
    """1 - 0.9 is less than 0.1 in float64."""
    assert RankRule(energy=0.9).choose([spectrum([3, 1])]).ranks == (1,)


@pytest.mark.parametrize("rule", [RankRule(energy=1.0), RankRule(error=0.0), RankRule()])
def test_everything_is_all_that_is_not_zero_up_to_rounding(rule: RankRule) -> None:
    values = [1, 1e-3, 1e-9, 1e-13, 1e-18, 0]
    assert rule.choose([spectrum(values)]).ranks == (4,)


def test_a_tiny_error_is_not_rounded_to_none() -> None:
    """1 - error² is 1 in float64, but the tail is summed from its small end."""
    assert RankRule(error=2e-9).choose([spectrum([1, 1e-9, 1e-9, 1e-10])]).ranks == (1,)
    assert RankRule(error=1.2e-9).choose([spectrum([1, 1e-9, 1e-9, 1e-10])]).ranks == (2,)


@given(targets=targets_of(), extra=modifiers(), goal=st.sampled_from([{}, {"energy": 0.7}]))
def test_modifiers_give_the_next_rank_they_allow(
    targets: list[TargetSpectrum], extra: dict[str, Any], goal: dict[str, Any]
) -> None:
    free = RankRule(**goal).choose(targets).ranks
    rule = RankRule(**goal, **extra)
    if rule.uniform:
        free = (max(free),) * len(free)
    for rank, found in zip(free, rule.choose(targets).ranks, strict=True):
        choices = allowed(rule, 9)
        assert found == next((choice for choice in choices if choice >= rank), choices[-1])


@pytest.mark.parametrize("rule", [{"energy": 0.5}, {"error": 0.5}, {"parameters": 10**6}, {}])
def test_a_zero_update_has_rank_zero_unless_a_smallest_is_asked_for(rule: dict[str, Any]) -> None:
    zero, empty = spectrum([0.0, 0.0]), spectrum([])
    assert RankRule(**rule).choose([zero, empty]).ranks == (0, 0)
    assert RankRule(**rule, min_rank=2).choose([zero, empty]).ranks == (2, 2)


def test_a_fixed_rank_is_that_rank_whatever_the_target() -> None:
    assert RankRule(rank=7).choose([spectrum([1]), spectrum([], 2, 3)]).ranks == (7, 7)


def test_no_targets_have_no_ranks() -> None:
    for rule in (RankRule(rank=1), RankRule(uniform=True), RankRule(parameters=5, uniform=True)):
        assert rule.choose([]).ranks == ()


# --- one budget ----------------------------------------------------------------------------------


def best_by_trying(rule: RankRule, targets: list[TargetSpectrum]) -> int | None:
    """The most energy of all allocations that the budget allows; None where there is none."""
    choices = allowed(rule, max(len(target.values) for target in targets))
    found = None
    for ranks in itertools.product(choices, repeat=len(targets)):
        cost = sum(rank * (t.m + t.n) for rank, t in zip(ranks, targets, strict=True))
        if cost <= present(rule.parameters) and (not rule.uniform or len(set(ranks)) == 1):
            found = max(found or 0, kept(targets, ranks))
    return found


@given(targets=targets_of(), extra=modifiers(), budget=st.integers(1, 220))
def test_no_allocation_beats_that_of_a_budget(
    targets: list[TargetSpectrum], extra: dict[str, Any], budget: int
) -> None:
    rule = RankRule(parameters=budget, **extra)
    best = best_by_trying(rule, targets)
    if best is None:
        with pytest.raises(LoratoolsError, match="more than the budget"):
            rule.choose(targets)
        return
    choice = rule.choose(targets)
    cost = sum(rank * (t.m + t.n) for rank, t in zip(choice.ranks, targets, strict=True))
    assert cost <= budget
    assert set(choice.ranks) <= set(allowed(rule, max(len(t.values) for t in targets)))
    assert kept(targets, choice.ranks) == best
    assert choice.gap == 0


def test_the_best_by_price_does_not_fill_a_budget_best() -> None:
    """Of 10: 5 + 5 keep 2 · 16 = 32, and the best by energy an element 25 of 7, with 3 left."""
    targets = [spectrum([5], 3, 4), spectrum([4], 2, 3), spectrum([4], 3, 2)]
    assert RankRule(parameters=10).choose(targets).ranks == (0, 1, 1)


def test_a_budget_for_everything_keeps_everything_and_nothing_of_zero() -> None:
    targets = [spectrum([3, 2, 1, 0]), spectrum([0]), spectrum([1, 1e-9])]
    cost = 110 * (3 + 2)
    assert RankRule(parameters=cost).choose(targets).ranks == (3, 0, 2)
    assert RankRule(parameters=10 * cost).choose(targets).ranks == (3, 0, 2)
    assert RankRule(parameters=cost - 1).choose(targets).ranks == (3, 0, 1)


def test_ties_go_to_the_earlier_target() -> None:
    targets = [spectrum([2, 1]), spectrum([2, 1]), spectrum([2, 1])]
    assert RankRule(parameters=4 * 110).choose(targets).ranks == (2, 1, 1)
    many = [spectrum([1])] * 1000
    assert RankRule(parameters=400 * 110).choose(many).ranks == (1,) * 400 + (0,) * 600


# --- spectra of which only the leading values are known ------------------------------------------


@given(
    targets=targets_of(),
    extra=modifiers(),
    goal=st.sampled_from(["energy", "error", "parameters", "none"]),
    data=st.data(),
)
def test_a_choice_that_is_settled_is_that_of_the_whole_spectra(
    targets: list[TargetSpectrum], extra: dict[str, Any], goal: str, data: st.DataObject
) -> None:
    goals: dict[str, Any] = {
        "energy": data.draw(st.floats(0.1, 1)),
        "error": data.draw(st.floats(0, 0.9)),
        # At least what three targets take at the largest rank that `extra` may ask for.
        "parameters": data.draw(st.integers(3 * 4 * 18, 400)),
    }
    rule = RankRule(**{k: v for k, v in goals.items() if k == goal}, **extra)
    partly = [known(t, data.draw(st.integers(0, len(t.values)))) for t in targets]
    choice = rule.choose(partly)
    unsettled = rule.unsettled(partly, choice)
    if unsettled:
        assert all(len(partly[i].values) < len(targets[i].values) for i in unsettled)
    else:
        assert kept(targets, choice.ranks) == kept(targets, rule.choose(targets).ranks)


def test_targets_that_could_want_more_are_named() -> None:
    full, part = spectrum([3, 2, 1]), known(spectrum([3, 2, 1]), 2)
    for rule, open_ in (
        (RankRule(rank=2), ()),
        (RankRule(rank=3), (1,)),
        (RankRule(energy=13 / 14), ()),
        (RankRule(energy=0.95), (1,)),
        (RankRule(), (1,)),
        (RankRule(max_rank=2), ()),
        (RankRule(parameters=220), ()),
        (RankRule(parameters=440), (1,)),
    ):
        assert rule.unsettled([full, part], rule.choose([full, part])) == open_, rule


def test_what_is_wanted_follows_the_rule() -> None:
    shapes = [spectrum([], 10, 20), spectrum([], 30, 40)]
    assert RankRule(rank=5).wanted(shapes) == Wanted(rank=5)
    assert RankRule(parameters=1000, max_rank=16).wanted(shapes).rank == 16
    assert RankRule(parameters=1000).wanted(shapes).rank == 20
    wanted = RankRule(error=0.1, multiple_of=4, min_rank=2).wanted(shapes)
    assert (wanted.rank, wanted.most, wanted.multiple_of) == (4, None, 4)
    assert wanted.loss == pytest.approx(0.01)


def test_wanted_counts_values() -> None:
    energies = np.cumsum([9.0, 4.0, 2.0, 1.0])
    assert Wanted().count(energies, 16.0) == 0
    assert Wanted(rank=3).count(energies, 16.0) == 3
    assert Wanted(loss=3 / 16).count(energies, 16.0) == 2
    assert Wanted(loss=3 / 16, multiple_of=3).count(energies, 16.0) == 3
    assert Wanted(loss=0.1, most=2).count(energies, 16.0) == 2
    assert Wanted(loss=0.1).count(energies, 32.0) == 5
    assert Wanted(loss=0.0).count(energies, 16.0) == 4


# --- certificates --------------------------------------------------------------------------------


def test_the_certificate_of_a_truncation() -> None:
    """Σσ² = 9 + 4 + 1 = 14."""
    target = spectrum([3, 2, 1])
    assert target.truncation(2) == Truncation(2, 14.0, 1.0)
    assert target.truncation(2).energy == pytest.approx(13 / 14)
    assert target.truncation(2).error == pytest.approx(math.sqrt(1 / 14))
    assert (target.truncation(0).energy, target.truncation(0).error) == (0, 1)
    assert target.truncation(8) == Truncation(8, 14.0, 0.0)
    assert known(target, 1).truncation(1) == Truncation(1, 14.0, 5.0)


def test_energies_of_many_add_up() -> None:
    whole = together([spectrum([3, 1]).truncation(1), spectrum([2, 2]).truncation(1)])
    assert whole == Truncation(2, 18.0, 5.0)
    assert (together([]).energy, together([]).error) == (1, 0)


# --- rules that contradict themselves ------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"rank": 1, "energy": 0.5}, "rank and energy are both given"),
        ({"rank": 0}, "keeps nothing"),
        ({"rank": 4, "multiple_of": 4}, "leaves no choice"),
        ({"energy": 0.0}, "above 0"),
        ({"energy": 1.1}, "at most 1"),
        ({"energy": math.nan}, "at most 1"),
        ({"error": 1.0}, "below 1"),
        ({"error": -0.1}, "from 0"),
        ({"parameters": 0}, "keeps nothing"),
        ({"multiple_of": 0}, "multiples of 0"),
        ({"min_rank": -1}, "smallest rank is -1"),
        ({"max_rank": 0}, "no rank is"),
        ({"max_rank": 3, "multiple_of": 4}, "no rank is a multiple of 4 from 1 to 3"),
        ({"max_rank": 6, "min_rank": 5, "multiple_of": 4}, "from 5 to 6"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(LoratoolsError, match=message) as caught:
        RankRule(**rule)
    assert "\n" not in str(caught.value)
    assert str(caught.value)[0].islower()
