"""DARE and a sum: which entries stay is random, what becomes of them is not."""

import math

import pytest
import torch
from torch import Tensor

from loratools.lowrank.factored import Factored
from loratools.methods import dare_linear
from tests.methods.tasks import CLOSE, normals, result, row, run, task


def dropped(values: Tensor, found: Tensor, scale: float) -> int:
    """How many entries are zero; all others must be the values times the scale."""
    kept = found != 0
    torch.testing.assert_close(found[kept], values[kept] * scale, **CLOSE)
    return int((~kept).sum())


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_entries_are_dropped_with_the_probability_and_the_others_rescaled(density: float) -> None:
    """Of n Bernoulli entries, n·(1 - density) are dropped, within 5 standard deviations."""
    update, size = normals(0, 1000, 700, 2), 700_000
    found = run(dare_linear, task(update), density=density)
    count = dropped(update.dense(), found, 1 / density)
    deviation = math.sqrt(size * density * (1 - density))
    assert abs(count - size * (1 - density)) < 5 * deviation


def test_half_is_dropped_by_default() -> None:
    update = normals(0, 100, 100, 2)
    count = dropped(update.dense(), run(dare_linear, task(update)), 2.0)
    assert abs(count - 5000) < 5 * 50


def test_without_rescaling_entries_stay_as_they_are() -> None:
    update = normals(0, 30, 20, 2)
    assert dropped(update.dense(), run(dare_linear, task(update), rescale=False), 1.0)


def test_expectation_is_the_update() -> None:
    """The mean of 2000 equal rows is within 5 standard deviations: |x|·√((1 - p)/p/2000) each."""
    line = normals(0, 1, 12, 2)
    update = Factored(line.up.expand(2000, 2), line.down)
    error = (run(dare_linear, task(update), density=0.4).mean(0) - line.dense()[0]).abs()
    assert (error <= 5 * line.dense()[0].abs() * math.sqrt(0.6 / 0.4 / 2000)).all()


def test_sum_with_weights_of_what_each_alone_gives() -> None:
    one, other = normals(0, 8, 9, 2), normals(1, 8, 9, 2)
    nothing = normals(0, 8, 9, 0)
    first = run(dare_linear, task(one, nothing))
    second = run(dare_linear, task(nothing, other))
    found = run(dare_linear, task(one, other, weights=(2.0, -1.0)))
    torch.testing.assert_close(found, 2 * first - second, **CLOSE)
    found = run(dare_linear, task(one, other, weights=(3.0, 1.0)), normalize=True)
    torch.testing.assert_close(found, 0.75 * first + 0.25 * second, **CLOSE)


def test_nothing_is_dropped_at_density_1() -> None:
    assert result(dare_linear, row(1, 2, 3), row(1, 0, -1), density=1.0) == [[2, 2, 2]]


def test_numbers_do_not_change_between_versions() -> None:
    """Results of a seed are what they were: Philox of (adapter, seed), 24 bits an entry."""
    found = run(dare_linear, task(row(*[1.0] * 16), seed=12345))
    assert "".join("1" if value else "0" for value in found[0].tolist()) == "0111111000110100"
