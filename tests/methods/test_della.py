"""DELLA: probabilities by rank in a row, rescaling by each, election and mean."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools import LoratoolsError
from loratools.lowrank.factored import Factored
from loratools.methods import MethodOptions, dare_ties, della
from tests.methods.tasks import CLOSE, absent, disjoint_mean, normals, row, run, task, updates


def test_probability_rises_with_the_rank_in_the_row() -> None:
    """Rows [2 -1 3] and [5 6 4] have ranks [1 0 2] and [1 2 0]. With density 1/2 and epsilon 1/2
    these are kept with 1/4, 1/2 and 3/4, and divided by it: so values are 2/.5, -1/.25, 3/.75 and
    5/.5, 6/.75, 4/.25, and the shares of 4000 draws are within 5 deviations, of 0.008 at most.
    """
    rows = torch.tensor([[2.0, -1, 3], [5, 6, 4]]).double().repeat(4000, 1)
    update = Factored(rows, torch.eye(3).double())
    found = run(della, task(update), density=0.5, epsilon=0.5).view(4000, 2, 3)
    assert found.abs().amax(0).tolist() == [[4, 4, 4], [10, 8, 16]]
    shares = (found != 0).double().mean(0)
    expected = torch.tensor([[0.5, 0.25, 0.75], [0.5, 0.75, 0.25]]).double()
    assert ((shares - expected).abs() < 5 * 0.008).all()


def test_equal_magnitudes_rank_by_position() -> None:
    """Of three equal entries the last is kept more often, and so divided by more."""
    found = [run(della, task(row(1, -1, 1), seed=s), density=0.5, epsilon=0.5) for s in range(99)]
    assert torch.stack(found).abs().amax(0).tolist() == [[4, 2, pytest.approx(4 / 3)]]


@pytest.mark.parametrize("columns", [1, 2, 300, 70_000])
def test_mean_probability_is_the_density(columns: int) -> None:
    """Ranks run from 0 to 1, whatever the bits: magnitudes over the whole range of float32."""
    exponents = torch.linspace(-120, 120, columns).double()
    order = torch.randperm(columns, generator=torch.Generator().manual_seed(0))
    values = (2.0 ** exponents[order])[None]
    ranks = della._ranks(values.float())
    expected = values.argsort().argsort() / max(1, columns - 1) if columns > 1 else values * 0 + 0.5
    torch.testing.assert_close(ranks.double(), expected.double(), rtol=0, atol=1e-6)


@given(parts=updates(count=3), rescale=st.booleans())
def test_mean_of_what_is_left_of_each(parts: tuple[Factored, ...], rescale: bool) -> None:
    weights = (1.0, -0.5, 2.0)
    nothing = [absent(part) for part in parts]
    taus = []
    for number, part in enumerate(parts):
        alone = [*nothing[:number], part, *nothing[number + 1 :]]
        taus.append(run(della, task(*alone, weights=weights), rescale=rescale))
    found = run(della, task(*parts, weights=weights), rescale=rescale)
    torch.testing.assert_close(found, disjoint_mean(taus), **CLOSE)


def test_without_a_window_it_is_dare_ties() -> None:
    parts = normals(0, 20, 30, 2), normals(1, 20, 30, 2)
    found = run(della, task(*parts), density=0.3, epsilon=0.0)
    torch.testing.assert_close(found, run(dare_ties, task(*parts), density=0.3), **CLOSE)


def test_default_window_is_narrower_where_there_is_no_room() -> None:
    assert della._probabilities(MethodOptions()) == pytest.approx((0.4, 0.2))
    assert della._probabilities(MethodOptions(density=0.1)) == pytest.approx((0.05, 0.1))
    assert della._probabilities(MethodOptions(density=0.95)) == pytest.approx((0.9, 0.1))
    assert della._probabilities(MethodOptions(density=1.0)) == (1.0, 0.0)


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.2), (0.9, 0.3), (1.0, 0.1)])
def test_window_beyond_0_or_1_is_refused(density: float, epsilon: float) -> None:
    with pytest.raises(LoratoolsError, match=f"an epsilon of {epsilon} around a density of"):
        run(della, task(row(1)), density=density, epsilon=epsilon)


def test_expectation_is_the_update() -> None:
    """The mean of 2000 equal rows, with variances x²·(1 - p)/p, where p is 0.2 at least."""
    line = normals(0, 1, 12, 2)
    update = Factored(line.up.expand(2000, 2), line.down)
    error = (run(della, task(update), density=0.4, epsilon=0.4).mean(0) - line.dense()[0]).abs()
    assert (error <= 5 * line.dense()[0].abs() * math.sqrt(4 / 2000)).all()
