"""DARE and the election of TIES."""

import torch
from hypothesis import given

from loratools.lowrank.factored import Factored
from loratools.methods import dare_linear, dare_ties
from tests.methods.tasks import (
    CLOSE,
    absent,
    disjoint_mean,
    result,
    row,
    run,
    task,
    updates,
)


def test_by_hand_at_density_1() -> None:
    """Sums are 3, -1 and 6: 4 and 2 agree, -3 does not; -2 alone; 1, 2 and 3 agree."""
    parts = row(4, 1, 1), row(2, 0, 2), row(-3, -2, 3)
    assert result(dare_ties, *parts, density=1.0) == [[3, -2, 2]]
    assert result(dare_ties, *parts, density=1.0, normalize=False) == [[6, -2, 6]]
    found = result(dare_ties, *parts, density=1.0, majority_sign_method="frequency")
    assert found == [[3, 0, 2]]


@given(parts=updates(count=3))
def test_mean_of_what_dare_leaves_of_each(parts: tuple[Factored, ...]) -> None:
    weights = (1.0, -0.5, 2.0)
    nothing = [absent(part) for part in parts]
    taus = []
    for number, part in enumerate(parts):
        alone = [*nothing[:number], part, *nothing[number + 1 :]]
        taus.append(run(dare_linear, task(*alone, weights=weights, seed=5), density=0.6))
    found = run(dare_ties, task(*parts, weights=weights, seed=5), density=0.6)
    torch.testing.assert_close(found, disjoint_mean(taus), **CLOSE)


def test_rescaling_can_be_left_out() -> None:
    parts = row(*range(1, 60)), row(*range(60, 1, -1))
    rescaled = run(dare_ties, task(*parts), density=0.25)
    plain = run(dare_ties, task(*parts), density=0.25, rescale=False)
    torch.testing.assert_close(rescaled, 4 * plain, **CLOSE)
    assert plain.any()
