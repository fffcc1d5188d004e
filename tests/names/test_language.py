"""Names of language models' modules that MLX and PEFT share."""

import pytest

from loratools.names.language import is_called_alike


@pytest.mark.parametrize(
    ("path", "is_same"),
    [
        ("model.layers.12.self_attn.q_proj", True),
        ("language_model.model.layers.0.mlp.down_proj", True),
        ("model.embed_tokens", True),
        ("lm_head", True),
        ("model.layers.0.mlp.experts.3.up_proj", False),
        ("model.layers.0.mlp.switch_mlp.up_proj", False),
        ("model.layers", False),
        ("model.h.0.attn.c_attn", False),
        ("transformer.h.0.attn.c_attn", False),
    ],
)
def test_only_known_names_are_taken_for_the_same(path: str, is_same: bool) -> None:
    assert is_called_alike(path) is is_same
