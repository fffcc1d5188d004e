"""W' = magnitude * (W + dW) / norm(W + dW), by hand."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch

from loratools.deltas import Span, keys_of
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.errors import ShapeMismatchError
from tests.deltas.computing import applied, held, lora, once

Axis = Literal["row", "column"]
WEIGHT = [[2.0, 4.0], [3.0, 0.0]]
#: [[1], [2]] @ [[1, 0]] = [[1, 0], [2, 0]], so W + dW = [[3, 4], [5, 0]].
LORA = lora([[1.0], [2.0]], [[1.0, 0.0]])


def test_rows_get_their_magnitudes_as_norms() -> None:
    """Norms of the rows (3, 4) and (5, 0) are 5 and 5; 10/5 and 15/5 make (6, 8) and (15, 0)."""
    delta = DoRA(LORA, held([10.0, 15.0], "magnitude"), "row")
    assert applied(delta, WEIGHT).tolist() == [[6, 8], [15, 0]]


def test_columns_get_their_magnitudes_as_norms() -> None:
    """[[1], [2]] @ [[2, 0]] makes W + dW = [[3, 4], [4, 0]]; columns (3, 4) and (4, 0) have norms
    5 and 4; 10/5 and 2/4 make (6, 8) and (2, 0).
    """
    lora_of_columns = lora([[1.0], [2.0]], [[2.0, 0.0]])
    delta = DoRA(lora_of_columns, held([10.0, 2.0], "magnitude"), "column")
    assert applied(delta, [[1.0, 4.0], [0.0, 0.0]]).tolist() == [[6, 2], [8, 0]]


def test_transposed_turns_rows_into_columns() -> None:
    """The transpose of the first case: [[6, 15], [8, 0]]."""
    delta = DoRA(LORA, held([10.0, 15.0]), "row").transposed()
    assert delta.axis == "column"
    assert applied(delta, [[2.0, 3.0], [4.0, 0.0]]).tolist() == [[6, 15], [8, 0]]
    assert delta.transposed().axis == "row"


def test_scaling_counts_inside_the_norm() -> None:
    """With scaling 2, W + dW = [[4, 4], [7, 0]]: norms √32 and 7."""
    delta = DoRA(lora([[1.0], [2.0]], [[1.0, 0.0]], once(2)), held([32.0**0.5, 7.0]), "row")
    result = applied(delta, WEIGHT)
    assert result.flatten().tolist() == pytest.approx([4, 4, 7, 0], rel=2.0**-22)  # magnitudes: F32


@pytest.mark.parametrize("axis", ["row", "column"])
def test_strength_zero_is_the_weight_although_the_magnitudes_are_not_its_norms(axis: Axis) -> None:
    delta = DoRA(LORA, held([10.0, 15.0]), axis)
    assert applied(delta, WEIGHT, 0.0).tolist() == WEIGHT


def test_strength_goes_that_share_of_the_way() -> None:
    """Half way from [[2, 4], [3, 0]] to [[6, 8], [15, 0]] is [[4, 6], [9, 0]]."""
    delta = DoRA(LORA, held([10.0, 15.0]), "row")
    assert applied(delta, WEIGHT, 0.5).tolist() == [[4, 6], [9, 0]]


@pytest.mark.parametrize("axis", ["row", "column"])
def test_zero_norm_stays_zero(axis: Axis) -> None:
    delta = DoRA(lora([[0.0], [0.0]], [[1.0, 1.0]]), held([10.0, 15.0]), axis)
    assert applied(delta, [[0.0, 0.0], [0.0, 0.0]]).tolist() == [[0, 0], [0, 0]]


def test_negative_magnitude_turns_the_row() -> None:
    """Training does not keep magnitudes positive; the formula takes them as they are."""
    delta = DoRA(LORA, held([-10.0, 15.0]), "row")
    assert applied(delta, WEIGHT).tolist() == [[-6, -8], [15, 0]]


@pytest.mark.parametrize(("axis", "count"), [("row", 3), ("column", 2)])
def test_there_is_a_magnitude_for_every_row_or_column(axis: Axis, count: int) -> None:
    wide = lora([[1.0], [2.0], [3.0]], [[1.0, 0.0]])
    DoRA(wide, held([1.0] * count), axis)
    with pytest.raises(ShapeMismatchError, match=f"{count} magnitudes are expected"):
        DoRA(wide, held([1.0] * 4), axis)


def test_norms_of_columns_need_every_row() -> None:
    magnitude = held([1.0, 1.0])
    assert DoRA(LORA, magnitude, "row").by_rows
    assert not DoRA(LORA, magnitude, "column").by_rows


def test_keys_are_those_of_the_factors_and_the_magnitude() -> None:
    delta = DoRA(LORA, held([1.0, 1.0], "magnitude"), "row")
    assert (delta.kind, keys_of(delta), delta.shape) == (
        "DoRA",
        ("down", "up", "magnitude"),
        (2, 2),
    )


@pytest.mark.parametrize("axis", ["row", "column"])
@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-19, 1.0, 1e19, 1e30, 1e37])
@pytest.mark.parametrize("magnitude", [1e-30, 5.0, 1e30])
def test_squares_that_leave_float32_are_norms_all_the_same(
    axis: Axis, size: float, magnitude: float
) -> None:
    """Rows and columns are (3, 4) and (4, 3) times the size, with a norm of 5 times it. Both
    factors are zero; float32 rounds the weight, the magnitude, their ratio and the result.
    """
    weight = torch.tensor([[3.0, 4.0], [4.0, 3.0]]) * size
    delta = DoRA(lora([[0.0], [0.0]], [[0.0, 0.0]]), held([magnitude, magnitude]), axis)
    span = Span(0, 2, torch.float32, lambda: iter([(0, weight.clone())]))
    result = weight.clone()
    delta.bind(span, 1.0)(result, 0)
    expected = [0.6 * magnitude, 0.8 * magnitude, 0.8 * magnitude, 0.6 * magnitude]
    assert result.flatten().tolist() == pytest.approx(expected, rel=4 * 2.0**-24)


def test_norm_of_many_large_values_is_finite() -> None:
    weight = torch.full((1, 10_000), 1e38)
    delta = DoRA(lora([[0.0]], [[0.0] * 10_000]), held([100.0]), "row")
    delta.bind(Span(0, 1, torch.float32, lambda: iter([(0, weight)])), 1.0)(weight, 0)
    assert weight.unique().tolist() == pytest.approx([1.0], rel=4 * 2.0**-24)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 2), (2, 3, 3, 1), (2, 2, 1, 2, 3)])
@pytest.mark.parametrize("axis", ["row", "column"])
def test_magnitude_is_the_norm_over_all_other_axes_and_the_kernel(
    shape: tuple[int, ...], axis: Axis
) -> None:
    random = torch.Generator().manual_seed(len(shape))
    weight = torch.randn(shape, generator=random).double()
    lengths = torch.rand(shape[0 if axis == "row" else 1], generator=random) + 0.5
    low_rank = lora(
        torch.randn(shape[0], 2, generator=random).tolist(),
        torch.randn(2, math.prod(shape[1:]), generator=random).tolist(),
    )
    delta = DoRA(replace(low_rank, shape=shape), held(lengths.tolist()), axis)
    result = applied(delta, weight, block=1).reshape(shape)
    moved = weight + delta.change.dense_rows(0, shape[0]).reshape(shape)
    other = "o" if axis == "row" else "i"
    norms = torch.einsum(f"oi...,oi...->{other}...", moved, moved)
    norms = norms.reshape(len(lengths), -1).sum(1).sqrt()
    expected = torch.einsum(f"oi...,{other}->oi...", moved, lengths.double() / norms)
    # Sums of at most 36 squares in two orders, in float64.
    assert (result - expected).abs().max() <= 64 * torch.finfo(torch.float64).eps * lengths.max()


def test_change_of_any_additive_kind_gets_the_norms() -> None:
    """Of a diff [[1, 0], [2, 0]], as in the first case."""
    diff = Diff(held([[1.0, 0.0], [2.0, 0.0]], "diff"), once())
    delta = DoRA(diff, held([10.0, 15.0], "magnitude"), "row")
    assert applied(delta, WEIGHT).tolist() == [[6, 8], [15, 0]]
    assert delta.low_rank is None
