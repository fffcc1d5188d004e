"""Slerp: its coefficients by hand, and against the formula on flattened matrices."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools import LoratoolsError
from loratools.lowrank.factored import Factored
from loratools.methods import MethodOptions, slerp
from tests.methods.tasks import absent, matrix, normals, result, row, run, task, updates


def test_right_angle_by_hand() -> None:
    """Ω = 90°: halfway both coefficients are sin 45°; a third of the way sin 60° and sin 30°."""
    one, other = matrix([[3, 0], [0, 0]]), matrix([[0, 0], [0, 2]])
    half = math.sqrt(0.5)
    assert result(slerp, one, other) == [[pytest.approx(3 * half), 0], [0, pytest.approx(2 * half)]]
    found = result(slerp, one, other, t=1 / 3)
    assert found == [[pytest.approx(3 * math.sqrt(0.75)), 0], [0, pytest.approx(1)]]


@given(parts=updates(count=2), t=st.floats(0, 1))
def test_formula_of_the_paper(parts: tuple[Factored, ...], t: float) -> None:
    one, other = parts[0].dense().flatten(), -0.5 * parts[1].dense().flatten()
    cosine = torch.dot(one, other) / (one.norm() * other.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle.sin() < 1e-3:
        return  # the arc cosine is not good enough to compare with
    a, b = ((1 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()
    found = run(slerp, task(*parts, weights=(1.0, -0.5)), t=t).flatten()
    torch.testing.assert_close(found, a * one + b * other, rtol=1e-9, atol=1e-9)


@given(parts=updates(count=2))
def test_ends_are_the_updates(parts: tuple[Factored, ...]) -> None:
    for t, end in enumerate(parts):
        found = run(slerp, task(*parts), t=float(t))
        torch.testing.assert_close(found, end.dense(), rtol=1e-7, atol=1e-7)


def test_small_angle_is_not_rounded_away() -> None:
    """An angle of 1e-7, whose cosine is 1 to rounding: halfway the length stays 1."""
    one, other = row(1, 0), row(math.cos(1e-7), math.sin(1e-7))
    found = run(slerp, task(one, other))
    assert found[0, 1].item() == pytest.approx(math.sin(5e-8), rel=1e-9)
    assert found.norm().item() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_parallel_updates_go_straight(weight: float) -> None:
    part = normals(0, 4, 5, 2)
    found = run(slerp, task(part, part, weights=(1.0, weight)), t=0.25)
    torch.testing.assert_close(found, (0.75 + 0.25 * weight) * part.dense())


def test_straight_line_to_and_from_nothing() -> None:
    """A weight that one of the adapters does not change: at t = 1 the result is the second's."""
    part = normals(0, 4, 5, 2)
    torch.testing.assert_close(run(slerp, task(part, absent(part)), t=0.25), 0.75 * part.dense())
    torch.testing.assert_close(run(slerp, task(absent(part), part), t=0.25), 0.25 * part.dense())


def test_coefficients_are_all_that_is_computed() -> None:
    first, second = slerp.combine(task(row(1, 0), row(0, 1)), MethodOptions())
    assert [first, second] == pytest.approx([math.sqrt(0.5)] * 2)


def test_three_adapters_are_refused() -> None:
    with pytest.raises(LoratoolsError, match="from one adapter to another, and 3 are given"):
        run(slerp, task(row(1), row(2), row(3)))
