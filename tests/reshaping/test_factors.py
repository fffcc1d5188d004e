"""Sums of factors: what is stored as it was, padded, and rounded."""

import pytest
import torch

from loratools.deltas.lora import Rule
from loratools.lowrank.factored import Factored
from loratools.reshaping.factors import held, scaling_of, sum_of, widest
from tests.reshaping.adapters import dense, lora


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["F16"], "F16"),
        (["BF16", "BF16"], "BF16"),
        (["F16", "BF16"], "F32"),
        (["F32", "F64"], "F64"),
    ],
)
def test_widest_dtype_holds_each_exactly(dtypes: list[str], expected: str) -> None:
    assert widest(dtypes) == expected


def test_one_update_is_stored_as_it_was() -> None:
    one = lora(0, dtype="BF16")
    found = sum_of([(-3.0, one)]).concatenated()
    assert found.up is one.up
    assert found.down is one.down
    assert found.scaling.value == -3 * one.scaling.value


def test_padding_is_zeros() -> None:
    one = lora(0, rank=3)
    found = sum_of([(1.0, one)]).concatenated(5)
    assert found.rank == 5
    assert not found.up.read()[:, 3:].any()
    assert not found.down.read()[3:].any()
    torch.testing.assert_close(dense(found), dense(one), rtol=0, atol=2.0**-42)


def test_coefficients_of_zero_give_zero() -> None:
    found = sum_of([(0.0, lora(0)), (0.0, lora(1))])
    assert not found.read().dense().any()
    assert not dense(found.concatenated()).any()


def test_factors_of_rank_0_are_stored_as_zeros_of_rank_1() -> None:
    nothing = Factored(torch.zeros(4, 0).double(), torch.zeros(0, 3).double())
    found = held(nothing, (4, 3))
    assert found.rank == 1
    assert not dense(found).any()


@pytest.mark.parametrize("rule", ["rank", "sqrt_rank", "direct"])
def test_scaling_of_a_value_has_it(rule: Rule) -> None:
    scaling = scaling_of(0.75, 16, rule)
    assert scaling.value == 0.75
    assert scaling.rule == rule


def test_factors_in_memory_are_rounded_to_the_dtype_of_the_sum() -> None:
    from loratools.reshaping.factors import Sum

    product = Factored(torch.full((4, 1), 1 / 3).double(), torch.ones(1, 3).double())
    found = Sum(((1.0, held(product, (4, 3))),), "BF16").concatenated()
    assert found.up.read().dtype == torch.bfloat16
    assert found.up.dtype == "BF16"
