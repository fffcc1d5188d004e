"""The orientation of a square weight: by its neighbours, by the model, by the config's claim."""

from collections.abc import Mapping
from typing import Any

import pytest

from loratools.names.conv1d import conv1d_weights, square_is_transposed


@pytest.mark.parametrize(
    ("claimed", "non_square", "config", "transposed"),
    [
        # the shapes of the same adapter's other targets outweigh everything
        (False, [True, True], None, True),
        (True, [False], None, False),
        (False, [True], {"model_type": "llama"}, True),
        (True, [False], {"model_type": "gpt2"}, False),
        # without any, the base's model type
        (False, [], {"model_type": "gpt2"}, True),
        (False, [], {"model_type": "openai-gpt"}, True),
        (True, [], {"model_type": "bloom"}, False),
        (True, [], {"model_type": "gpt_bigcode"}, False),
        # where they disagree, as in a model of both kinds, the model type too
        (False, [True, False], {"model_type": "gpt2"}, True),
        # and where there is neither, the claim
        (True, [], None, True),
        (False, [], None, False),
        (True, [], {}, True),
        (True, [], {"model_type": None}, True),
        (True, [True, False], None, True),
        (False, [True, False], {}, False),
    ],
)
def test_shapes_decide_then_the_model_type_then_the_claim(
    claimed: bool, non_square: list[bool], config: Mapping[str, Any] | None, transposed: bool
) -> None:
    assert square_is_transposed(claimed, non_square, config) is transposed


def test_conv1d_weights_by_model_type_or_by_the_shape_of_c_attn() -> None:
    shapes = {"h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_proj.weight": (4, 4)}
    others = {"wte.weight": (9, 4), "h.0.attn.c_attn.bias": (12,)}
    assert conv1d_weights(shapes | others, {"model_type": "gpt2"}) == set(shapes)
    assert conv1d_weights(shapes | others, None) == set(shapes)
    assert conv1d_weights(shapes, {"model_type": "gpt_bigcode"}) == set()
    turned = {name: shape[::-1] for name, shape in shapes.items()}
    assert conv1d_weights(turned, None) == set()
