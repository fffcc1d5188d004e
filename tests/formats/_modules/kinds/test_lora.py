"""Factors as kohya's files store them."""

import math

import pytest
import torch

from loratools.errors import ShapeMismatchError
from tests.formats.kohya.modules import UNET, decoded, lora_of, module


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (4, 3, 3, 3), (4, 3, 5), (4, 3, 1, 3, 3)])
def test_shape_of_the_weight_is_that_of_the_factors(shape: tuple[int, ...]) -> None:
    lora = lora_of(decoded(module(shape=shape)))
    assert lora.shape == shape
    assert lora.up.shape == (4, 2)
    assert lora.down.shape == (2, math.prod(shape[1:]))


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((2, 3), (4, 3)),
        ((2, 3), (4, 2, 1, 1)),
        ((2, 3, 3, 3), (4, 2, 3, 3)),
        ((2, 3, 3, 3), (4, 2)),
    ],
)
def test_factors_that_do_not_fit_are_refused(down: tuple[int, ...], up: tuple[int, ...]) -> None:
    factors = {f"{UNET}.lora_down.weight": torch.zeros(down),
               f"{UNET}.lora_up.weight": torch.zeros(up)}  # fmt: skip
    with pytest.raises(ShapeMismatchError, match=f"here: {UNET}: lora_down .* do not fit"):
        decoded(factors)


@pytest.mark.parametrize(("down", "up"), [((4, 2), (2, 3)), ((4, 2, 1, 1), (2, 3, 3, 3))])
def test_factors_that_fit_the_other_way_round_may_be_swapped(
    down: tuple[int, ...], up: tuple[int, ...]
) -> None:
    factors = {f"{UNET}.lora_down.weight": torch.zeros(down),
               f"{UNET}.lora_up.weight": torch.zeros(up)}  # fmt: skip
    with pytest.raises(ShapeMismatchError, match="have rank 2 the other way round: are the two sw"):
        decoded(factors)
