"""Magnitude pruning, by hand and against its formula in float64."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.lowrank.factored import Factored
from loratools.methods import magnitude_prune
from tests.methods.tasks import CLOSE, matrix, result, row, run, task, trimmed, updates


def test_two_by_two_by_hand() -> None:
    """[4 1; -2 0] → [4 0; -2 0] and [-3 2; 1 -5] → [-3 0; 0 -5], whose sum this is."""
    one, other = matrix([[4, 1], [-2, 0]]), matrix([[-3, 2], [1, -5]])
    assert result(magnitude_prune, one, other, density=0.5) == [[1, 0], [-2, -5]]


def test_mean_divides_by_the_sum_of_the_weights() -> None:
    found = result(
        magnitude_prune, row(4, 1), row(2, 0), weights=(1, 3), density=0.5, normalize=True
    )
    assert found == [[2.5, 0]]


def test_default_keeps_the_largest_fifth() -> None:
    assert result(magnitude_prune, row(1, 2, 3, 4, -5)) == [[0, 0, 0, 0, -5]]


@given(parts=updates(), density=st.floats(0.01, 1))
def test_formula(parts: tuple[Factored, ...], density: float) -> None:
    weights = [1.0, -0.5, 2.0, 0.25][: len(parts)]
    keep = max(1, round(density * parts[0].up.shape[0] * parts[0].down.shape[1]))
    expected = sum(w * trimmed(p.dense(), keep) for p, w in zip(parts, weights, strict=True))
    found = run(magnitude_prune, task(*parts, weights=weights), density=density)
    torch.testing.assert_close(found, expected, **CLOSE)
