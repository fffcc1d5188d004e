"""TIES, by hand and against the paper's formula in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.lowrank.factored import Factored
from loratools.methods import ties
from tests.methods.tasks import (
    CLOSE,
    disjoint_mean,
    matrix,
    result,
    row,
    run,
    task,
    trimmed,
    updates,
)


def test_two_by_two_by_hand() -> None:
    """Of 4 entries, density 0.5 keeps 2. [4 1; -2 0] → [4 0; -2 0], [-3 2; 1 -5] → [-3 0; 0 -5].

    Sums are 1, 0, -2, -5. Of the first only 4 is positive; -2 and -5 stand alone.
    """
    one, other = matrix([[4, 1], [-2, 0]]), matrix([[-3, 2], [1, -5]])
    assert result(ties, one, other, density=0.5) == [[4, 0], [-2, -5]]


def test_mean_is_over_those_that_agree() -> None:
    """Sums are 3, -1 and 6: 4 and 2 agree, -3 does not; -2 alone; 1, 2 and 3 agree."""
    parts = row(4, 1, 1), row(2, 0, 2), row(-3, -2, 3)
    assert result(ties, *parts, density=1.0) == [[3, -2, 2]]
    assert result(ties, *parts, density=1.0, normalize=False) == [[6, -2, 6]]


def test_majority_by_frequency() -> None:
    """Of 5, -1 and -2 two are negative, though their sum is positive; one each elects none."""
    parts = row(5, 1), row(-1, -3), row(-2, 0)
    assert result(ties, *parts, density=1.0) == [[5, -3]]
    found = result(ties, *parts, density=1.0, majority_sign_method="frequency")
    assert found == [[-1.5, 0]]


def test_sum_of_zero_elects_no_sign() -> None:
    """PEFT and mergekit take it for positive, and give 2."""
    assert result(ties, row(2, 1), row(-2, 1), density=1.0) == [[0, 1]]


def test_trimming_is_before_the_weights() -> None:
    """The second is trimmed to its own largest entry, however small its weight; -4 + 1 elects."""
    found = result(ties, row(1, 0), row(-8, 6), weights=(1, 0.5), density=0.5)
    assert found == [[-4, 0]]


def test_weight_of_zero_is_not_counted_in_the_mean() -> None:
    assert result(ties, row(2), row(4), weights=(1, 0), density=1.0) == [[2]]


def test_negative_weight_votes_for_the_other_sign() -> None:
    assert result(ties, row(2, 1), row(3, -1), weights=(1, -1), density=1.0) == [[-3, 1]]


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 7])
def test_default_keeps_the_largest_fifth_and_at_least_one(columns: int) -> None:
    found = result(ties, row(*range(1, columns + 1)))
    assert sum(value != 0 for value in found[0]) == 1


@given(parts=updates(), density=st.floats(0.01, 1), data=st.data())
def test_formula_of_the_paper(
    parts: tuple[Factored, ...], density: float, data: st.DataObject
) -> None:
    weights = [data.draw(st.sampled_from([1.0, 0.5, -2.0])) for _ in parts]
    keep = max(1, round(density * parts[0].up.shape[0] * parts[0].down.shape[1]))
    taus = [trimmed(p.dense(), keep) * w for p, w in zip(parts, weights, strict=True)]
    found = run(ties, task(*parts, weights=weights), density=density)
    torch.testing.assert_close(found, disjoint_mean(taus), **CLOSE)
    signs = [tau.sign() for tau in taus]
    found = run(
        ties, task(*parts, weights=weights), density=density, majority_sign_method="frequency"
    )
    torch.testing.assert_close(found, disjoint_mean(taus, signs), **CLOSE)
