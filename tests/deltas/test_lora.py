"""dW = scaling * up @ down, by hand."""

import math
from typing import Any

import pytest

from loratools.deltas import keys_of
from loratools.deltas.lora import Rule, Scaling
from loratools.errors import FormatError
from tests.deltas.computing import applied, lora

UP, DOWN = [[1.0], [2.0]], [[3.0, 5.0]]
ZERO = [[0.0, 0.0], [0.0, 0.0]]


def test_update_is_the_product_of_the_factors_times_the_scaling() -> None:
    """[[1], [2]] @ [[3, 5]] = [[3, 5], [6, 10]]; alpha 4 over rank 2 doubles it; the weight adds.

    [[1, 1], [1, 1]] + 2 * [[3, 5], [6, 10]] = [[7, 11], [13, 21]].
    """
    delta = lora(UP, DOWN, Scaling(4, 2, "rank", "config"))
    assert applied(delta, [[1.0, 1.0], [1.0, 1.0]]).tolist() == [[7, 11], [13, 21]]


def test_ranks_add_up() -> None:
    """[[1, 2], [3, 4]] @ [[1, 0], [1, 1]] = [[1+2, 2], [3+4, 4]]."""
    delta = lora([[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [1.0, 1.0]])
    assert applied(delta, ZERO).tolist() == [[3, 2], [7, 4]]


@pytest.mark.parametrize(
    ("rule", "value"), [("rank", 12 / 9), ("sqrt_rank", 12 / 3), ("direct", 12.0)]
)
def test_scaling_divides_alpha_by_the_rank_its_root_or_nothing(rule: Rule, value: float) -> None:
    assert Scaling(12, 9, rule, "config").value == value
    assert Scaling(12, 9, rule, "config", times=2).value == 2 * value


@pytest.mark.parametrize("strength", [-1.0, 0.0, 0.5, 2.0])
def test_strength_is_a_factor(strength: float) -> None:
    """[[3, 5], [6, 10]] times the strength."""
    expected = [[3 * strength, 5 * strength], [6 * strength, 10 * strength]]
    assert applied(lora(UP, DOWN), ZERO, strength).tolist() == expected


def test_transposed_update_is_the_update_of_the_transposed_weight() -> None:
    """([[1], [2]] @ [[3, 5]]).T = [[3, 6], [5, 10]]."""
    delta = lora(UP, DOWN).transposed()
    assert applied(delta, ZERO).tolist() == [[3, 6], [5, 10]]
    assert applied(delta.transposed(), ZERO).tolist() == [[3, 5], [6, 10]]


def test_transposing_swaps_the_shape() -> None:
    delta = lora([[1.0], [2.0], [3.0]], DOWN)
    assert (delta.shape, delta.transposed().shape) == ((3, 2), (2, 3))
    assert applied(delta.transposed(), [[0.0] * 3] * 2).tolist() == [[3, 6, 9], [5, 10, 15]]


def test_rank_is_that_of_the_factors_and_not_of_the_scaling() -> None:
    assert lora(UP, DOWN, Scaling(1, 8, "rank", "config")).rank == 1


@pytest.mark.parametrize(
    ("alpha", "rank"), [(math.nan, 1), (math.inf, 1), (1.0, 0), (1.0, -2)], ids=str
)
def test_impossible_scaling_is_refused(alpha: Any, rank: int) -> None:
    with pytest.raises(FormatError, match="a scaling of alpha"):
        Scaling(alpha, rank, "rank", "config")


def test_kind_tells_rank_stabilised_from_plain() -> None:
    assert lora(UP, DOWN).kind == "LoRA"
    assert lora(UP, DOWN, Scaling(1, 1, "sqrt_rank", "config")).kind == "rsLoRA"


def test_keys_are_those_of_both_factors() -> None:
    assert keys_of(lora(UP, DOWN)) == ("down", "up")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("rule", ["rank", "sqrt_rank", "direct"])
def test_scaling_gives_the_factor_that_is_asked_for_by_its_rule(rule: Rule, times: int) -> None:
    """All of these numbers are powers of two, so that nothing is rounded."""
    scaling = Scaling(1, 16, rule, "config", times).giving(0.5)
    assert scaling.value == 0.5
    assert (scaling.rule, scaling.rank, scaling.times) == (rule, 16, times)
