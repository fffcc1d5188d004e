"""The weighted sum is its weights."""

from loratools.methods import MethodOptions, linear
from tests.methods.tasks import result, row, task


def test_two_by_hand() -> None:
    assert result(linear, row(4, 1), row(2, -3), weights=(1, -2)) == [[0, 7]]


def test_nothing_is_read() -> None:
    given = task(row(1), row(2), weights=(0.5, 0.25))
    assert linear.combine(given, MethodOptions()) == (0.5, 0.25)
    assert "updates" not in vars(given)


def test_mean_and_lambda() -> None:
    """3 and 1 are shares of 3/4 and 1/4; lambda comes after."""
    found = linear.combine(
        task(row(1), row(2), weights=(3, 1)), MethodOptions(normalize=True, lam=2.0)
    )
    assert found == (1.5, 0.5)
