"""Model Breadcrumbs, by hand and against its formula in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools import LoratoolsError
from loratools.lowrank.factored import Factored
from loratools.methods import breadcrumbs
from tests.methods.tasks import CLOSE, matrix, normals, result, row, run, task, trimmed, updates


def test_two_by_four_by_hand() -> None:
    """Of 8 entries gamma 1/8 removes the largest, 8, and density 1/4 keeps the next two."""
    found = result(breadcrumbs, matrix([[1, -7, 2, 3], [0, 8, 6, -5]]), density=0.25, gamma=0.125)
    assert found == [[0, -7, 0, 0], [0, 0, 6, 0]]


def test_equal_outliers_are_removed_from_the_front() -> None:
    found = result(breadcrumbs, row(3, -3, 3, 1), density=0.5, gamma=0.25)
    assert found == [[0, -3, 3, 0]]


def test_no_outlier_removed_is_magnitude_pruning() -> None:
    """A gamma that rounds to no entry removes none; mergekit before 0.1 removed all."""
    assert result(breadcrumbs, row(5, 4, 3, 2), density=0.5, gamma=0.0) == [[5, 4, 0, 0]]
    assert result(breadcrumbs, row(5, 4, 3, 2), density=0.5, gamma=0.1) == [[5, 4, 0, 0]]


def test_sum_of_several_with_weights() -> None:
    found = result(
        breadcrumbs, row(9, 2, 1), row(1, 9, 4), weights=(1, -1), density=1 / 3, gamma=0.3
    )
    assert found == [[0, 2, -4]]


def test_defaults_are_those_of_the_paper() -> None:
    """Of 100 entries the largest is removed, and the next 14 stay."""
    found = result(breadcrumbs, row(*range(100)))[0]
    assert [value for value in found if value] == list(range(85, 99))


def test_density_without_room_for_gamma_is_refused() -> None:
    with pytest.raises(LoratoolsError, match=r"density of 0\.9 leaves no room for a gamma of 0\.2"):
        run(breadcrumbs, task(row(1)), density=0.9, gamma=0.2)
    run(breadcrumbs, task(normals(0, 3, 3, 1)), density=0.9, gamma=0.1)  # whose sum is 1


@given(parts=updates(), density=st.floats(0.01, 0.7), gamma=st.floats(0, 0.3))
def test_formula(parts: tuple[Factored, ...], density: float, gamma: float) -> None:
    size = parts[0].up.shape[0] * parts[0].down.shape[1]
    keep = max(1, round(density * size))
    skip = min(round(gamma * size), size - keep)
    expected = torch.stack([trimmed(part.dense(), keep, skip) for part in parts]).sum(0)
    found = run(breadcrumbs, task(*parts), density=density, gamma=gamma)
    torch.testing.assert_close(found, expected, **CLOSE)
