"""W' = W + scaling * values, by hand."""

from loratools.deltas import keys_of
from loratools.deltas.diff import Diff
from tests.deltas.computing import applied, held, once


def test_values_are_added_times_scaling_and_strength() -> None:
    """[[1, 2], [3, 4]] + 0.5 * 4 * [[1, 0], [0, -1]] = [[3, 2], [3, 2]]."""
    delta = Diff(held([[1.0, 0.0], [0.0, -1.0]]), once(4))
    assert applied(delta, [[1.0, 2.0], [3.0, 4.0]], 0.5).tolist() == [[3, 2], [3, 2]]


def test_bias_is_a_matrix_of_one_column() -> None:
    """(1, 2) + 3 * (10, 20) = (31, 62)."""
    delta = Diff(held([10.0, 20.0], "bias"), once(3))
    assert applied(delta, [1.0, 2.0]).tolist() == [[31], [62]]
    assert (delta.kind, keys_of(delta), delta.shape) == ("diff", ("bias",), (2,))
    assert delta.by_rows
    assert delta.transposed() == delta
