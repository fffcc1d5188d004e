"""KnOTS in the factors equals KnOTS with the SVD of the concatenated matrices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.lowrank.factored import Factored
from loratools.methods import MethodOptions, knots
from tests.methods.tasks import disjoint_mean, matrix, normals, result, run, task, trimmed, updates


def dense_knots(parts: list[Tensor], density: float) -> Tensor:
    """[dW₁ … dWₙ] = U Σ [V₁ᵀ … Vₙᵀ], and U times the merged Σ Vₜᵀ."""
    u, values, vh = torch.linalg.svd(torch.cat(parts, dim=1), full_matrices=False)
    kept = values > 1e-10 * values[0]
    u, components = u[:, kept], (values[:, None] * vh)[kept].split(parts[0].shape[1], dim=1)
    keep = max(1, round(density * components[0].numel()))
    found: Tensor = u @ disjoint_mean([trimmed(component, keep) for component in components])
    return found


def test_two_rows_by_hand() -> None:
    """[3 0; 0 1] and [2 0; 0 -4] have the joined squares 13 and 17, so the axes are the basis.

    In it the components are the matrices: 3 and 2 agree, and of 1 and -4 the sum is negative.
    """
    one, other = matrix([[3, 0], [0, 1]]), matrix([[2, 0], [0, -4]])
    found = torch.tensor(result(knots, one, other))
    torch.testing.assert_close(found, torch.tensor([[2.5, 0], [0, -4]]))


@given(parts=updates(), density=st.floats(0.05, 1))
def test_equals_the_dense_computation(parts: tuple[Factored, ...], density: float) -> None:
    weights = [1.0, 0.5, -2.0, 0.75][: len(parts)]
    scaled = [w * part.dense() for w, part in zip(weights, parts, strict=True)]
    r = min(scaled[0].shape[0], sum(len(part.down) for part in parts))
    values = torch.linalg.svdvals(torch.cat(scaled, dim=1))[:r]
    if len(values) > 1 and (values.diff().abs() < 1e-4 * values[0]).any():
        return  # the basis is not determined, or nearly so
    found = run(knots, task(*parts, weights=weights), density=density)
    torch.testing.assert_close(found, dense_knots(scaled, density), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("density", [0.2, 1.0])
def test_result_has_the_rank_of_all_together(density: float) -> None:
    parts = normals(0, 30, 20, 3), normals(1, 30, 20, 2)
    found = knots.combine(task(*parts), MethodOptions(density=density))
    assert found.up.shape == (30, 5)
    assert found.down.shape == (5, 20)
    kept = [part != 0 for part in found.down]
    assert sum(int(row.sum()) for row in kept) <= 2 * round(density * 100)


def test_components_that_all_share_are_merged_in_one() -> None:
    """Updates of one column space of 3: the basis has 3, not 6."""
    one = normals(0, 30, 20, 3)
    other = Factored(one.up @ normals(1, 3, 3, 3).dense(), normals(2, 20, 20, 20).dense()[:3])
    found = knots.combine(task(one, other), MethodOptions())
    assert found.up.shape == (30, 3)


def test_sum_instead_of_the_mean() -> None:
    part = normals(0, 6, 7, 2)
    found = run(knots, task(part, part), normalize=False)
    torch.testing.assert_close(found, 2 * part.dense())
    torch.testing.assert_close(run(knots, task(part, part)), part.dense())


def test_majority_by_frequency() -> None:
    """On one axis: of 5, -1 and -2 two are negative."""
    parts = [matrix([[value, 0]]) for value in (5, -1, -2)]
    assert result(knots, *parts) == [[pytest.approx(5), 0]]
    found = result(knots, *parts, majority_sign_method="frequency")
    assert found == [[pytest.approx(-1.5), 0]]
