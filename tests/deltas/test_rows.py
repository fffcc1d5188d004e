"""Chosen rows take the place of others, by hand."""

import pytest

from loratools.deltas import keys_of
from loratools.deltas.rows import Rows
from loratools.errors import ShapeMismatchError
from tests.deltas.computing import applied, held

WEIGHT = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_rows_take_the_place_of_those_they_are_filed_under() -> None:
    """Row 2 becomes (7, 8), the first stored, and row 0 becomes (9, 9), the second."""
    delta = Rows((2, 0), held([[7.0, 8.0], [9.0, 9.0]]), (3, 2))
    assert applied(delta, WEIGHT).tolist() == [[9, 9], [3, 4], [7, 8]]


def test_strength_goes_that_share_of_the_way() -> None:
    """Half way from (3, 4) to (7, 0) is (5, 2)."""
    delta = Rows((1,), held([[7.0, 0.0]]), (3, 2))
    assert applied(delta, WEIGHT, 0.5).tolist() == [[1, 2], [5, 2], [5, 6]]
    assert applied(delta, WEIGHT, 0.0).tolist() == WEIGHT


def test_strength_one_is_exact_where_a_difference_would_round() -> None:
    """1 + (2^-60 - 1) rounds to 0 in float64."""
    delta = Rows((0,), held([[2.0**-60]]), (1, 1))
    assert applied(delta, [[1.0]]).tolist() == [[2.0**-60]]


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2]], ids=str)
def test_rows_are_found_in_whichever_block_they_are(block: int, cuts: list[int]) -> None:
    delta = Rows((2, 1), held([[7.0, 8.0], [9.0, 9.0]]), (3, 2))
    assert applied(delta, WEIGHT, cuts=cuts, block=block).tolist() == [[1, 2], [9, 9], [7, 8]]


def test_rows_that_both_have_are_compared_by_their_values() -> None:
    one = Rows((2, 0), held([[7.0, 8.0], [9.0, 9.0]]), (3, 2))
    other = Rows((1, 0, 2), held([[1.0, 1.0], [9.0, 9.0], [7.0, 0.0]]), (3, 2))
    assert one.shared(other) == (0, 2)
    assert one.differing(other) == (2,)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (3,)], ids=str)
def test_rows_that_do_not_fit_the_weight_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatchError, match="up to index 2 do not fit a weight of shape"):
        Rows((0, 2), held([[7.0, 8.0], [9.0, 9.0]], "tokens"), shape)


def test_has_one_orientation() -> None:
    delta = Rows((0,), held([[7.0, 8.0]], "tokens"), (3, 2))
    assert (delta.kind, keys_of(delta), delta.by_rows) == ("rows", ("tokens",), True)
    assert delta.low_rank is None
    with pytest.raises(NotImplementedError):
        delta.transposed()
