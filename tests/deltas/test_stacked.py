"""A LoRA for each of several stacked matrices, compared with the formula in float64."""

import pytest
import torch

from loratools.deltas.lora import LoRA, Scaling
from loratools.deltas.stacked import Stacked
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.io.source import Held
from tests.deltas.examples import applied

SCALING = Scaling(alpha=3, rank=2, rule="direct", origin="config")


def random(*shape: int) -> Held:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
    return Held(str(shape), numbers, "F32")


@pytest.mark.parametrize("matrices", [1, 3])
def test_each_matrix_gets_its_own_product(matrices: int) -> None:
    """Compared in float64, whose error is at most that of adding the products up."""
    up, down = random(3, 4, 2), random(matrices, 2, 5)
    delta = Stacked(up, down, SCALING, (3, 4, 5))
    weight = random(3, 20).tensor.double()
    expected = weight.reshape(3, 4, 5).clone()
    for expert in range(3):
        pair = up.tensor[expert].double(), down.tensor[expert % matrices].double()
        expected[expert] += 3 * pair[0] @ pair[1]
    allowed = 8 * torch.finfo(torch.float64).eps
    for step in (1, 2, 3):
        result = applied(delta, weight, height=2, step=step).reshape(3, 4, 5)
        torch.testing.assert_close(result, expected, rtol=allowed, atol=allowed)
    difference = delta.dense_rows(1, 3).reshape(2, 4, 5)
    torch.testing.assert_close(
        difference, (expected - weight.reshape(3, 4, 5))[1:], rtol=allowed, atol=8 * allowed
    )


@pytest.mark.parametrize(
    ("up", "down", "shape"),
    [
        ((3, 4, 2), (3, 3, 5), (3, 4, 5)),
        ((3, 4, 2), (2, 2, 5), (3, 4, 5)),
        ((3, 4, 2), (3, 2, 5), (4, 3, 5)),
        ((3, 4, 2), (3, 2, 5), (3, 4, 6)),
        ((4, 2), (2, 5), (4, 5)),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    up: tuple[int, ...], down: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeMismatchError, match="do not fit each other and a weight of shape"):
        Stacked(random(*up), random(*down), SCALING, shape)


def test_what_a_stack_has_none_of_is_refused() -> None:
    delta = Stacked(random(3, 4, 2), random(3, 2, 5), SCALING, (3, 4, 5))
    with pytest.raises(UnsupportedError, match="stacked LoRA holds no LoRA"):
        delta.with_low_rank(LoRA(random(4, 2), random(2, 5), SCALING, (4, 5)))
    with pytest.raises(UnsupportedError, match=r"stacked LoRA: \[3, 4, 5\] has no other orient"):
        delta.transposed()


def test_zero_in_any_part_is_nothing() -> None:
    zero, up, down = Held("zero", torch.zeros(3, 4, 2), "F32"), random(3, 4, 2), random(3, 2, 5)
    assert Stacked(up, down, SCALING, (3, 4, 5)).nothing() is None
    assert Stacked(zero, down, SCALING, (3, 4, 5)).nothing() == (
        "up is zero throughout, as before training or with a strength of 0"
    )
    off = Scaling(alpha=0, rank=2, rule="direct", origin="config")
    assert "alpha is 0" in str(Stacked(up, down, off, (3, 4, 5)).nothing())
