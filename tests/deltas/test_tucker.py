"""dW = scaling * up * core * down, contracted over the ranks, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.deltas import keys_of
from loratools.deltas.lora import Scaling
from loratools.deltas.tucker import Tucker
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.testing import eighths, exact_scalings, tuckers
from tests.deltas.computing import applied, held, once

UP = held([[1.0, 0.0], [2.0, 1.0]], "up")
CORE = held([[[1.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, 0.0]]], "core")
DOWN = held([[1.0, 2.0], [0.0, 4.0]], "down")


def by_the_formula(delta: Tucker) -> Tensor:
    up, core, down = (s.read().double() for s in (delta.up, delta.core, delta.down))
    return delta.scaling.value * torch.einsum("mn...,om,ni->oi...", core, up, down)


def test_change_is_the_sum_over_both_ranks() -> None:
    """core[:, :, 0] = [[1 0] [0 3]] and core[:, :, 1] = [[2 1] [0 0]] for the kernel's two places.

    Times down [[1 2] [0 4]]: [[1 2] [0 12]] and [[2 8] [0 0]]. Times up [[1 0] [2 1]]:
    [[1 2] [2 16]] and [[2 8] [4 16]], which alternate in a row of the matrix; all of it halved.
    """
    delta = Tucker(UP, CORE, DOWN, once(0.5))
    assert delta.shape == (2, 2, 2)
    assert applied(delta, torch.zeros(2, 4)).tolist() == [[0.5, 1, 1, 4], [1, 2, 8, 8]]


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 5), (3, 2, 3, 1), (2, 3, 2, 3, 2)])
def test_change_is_the_formula_for_kernels_of_all_dimensions(shape: tuple[int, ...]) -> None:
    @given(delta=tuckers(shape, tensors=eighths, scaling=exact_scalings), strength=st.just(2.0))
    def check(delta: Tucker, strength: float) -> None:
        expected = by_the_formula(delta)
        assert delta.shape == tuple(expected.shape) == shape
        zeros = torch.zeros(shape).flatten(1)
        assert torch.equal(applied(delta, zeros, strength), strength * expected.flatten(1))
        assert torch.equal(delta.dense_rows(1, 2), expected.flatten(1)[1:2])

    check()


@given(delta=tuckers((3, 2, 3, 3), tensors=eighths, scaling=exact_scalings))
def test_factors_have_the_rank_of_up_and_are_exact(delta: Tucker) -> None:
    lora = delta.factored()
    assert (lora.rank, lora.shape) == (delta.up.shape[1], delta.shape)
    product = lora.scaling.value * lora.up.read().double() @ lora.down.read()
    assert torch.equal(product, by_the_formula(delta).flatten(1))


def test_weight_with_a_kernel_has_no_other_orientation() -> None:
    with pytest.raises(UnsupportedError, match=r"Tucker LoCon: \[2, 2, 2\]"):
        Tucker(UP, CORE, DOWN, once()).transposed()


@pytest.mark.parametrize(
    ("part", "why"),
    [("up", "up is zero"), ("core", "the core is zero"), ("down", "down is zero")],
)
def test_a_part_of_zeros_silences_the_change(part: str, why: str) -> None:
    parts = {"up": UP, "core": CORE, "down": DOWN}
    assert Tucker(**parts, scaling=once()).nothing() is None
    parts[part] = held(torch.zeros(parts[part].shape).tolist(), part)
    assert why in (Tucker(**parts, scaling=once()).nothing() or "")


def test_alpha_of_zero_silences_the_change() -> None:
    delta = Tucker(UP, CORE, DOWN, Scaling(0, 2, "rank", "tensor"))
    assert "alpha is 0" in (delta.nothing() or "")


@pytest.mark.parametrize(
    ("up", "core", "down"),
    [
        ((2, 3), (2, 2, 3), (2, 2)),
        ((2, 2), (2, 3, 3), (2, 2)),
        ((2, 2), (2,), (2, 2)),
        ((2, 2, 1), (2, 2, 1), (2, 2)),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    up: tuple[int, ...], core: tuple[int, ...], down: tuple[int, ...]
) -> None:
    parts = {"up": up, "core": core, "down": down}
    tensors = {name: held(torch.ones(shape).tolist(), name) for name, shape in parts.items()}
    with pytest.raises(ShapeMismatchError, match=r"core: a core .* does not fit"):
        Tucker(**tensors, scaling=once())


def test_keys_are_those_of_all_three_tensors() -> None:
    assert keys_of(Tucker(UP, CORE, DOWN, once())) == ("down", "core", "up")
