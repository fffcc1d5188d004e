"""The model types whose `config.json` need not say that embedding and head are one tensor."""

from collections.abc import Iterator

import pytest

from loratools.names.tied import TiedHead, find_tied_head
from tests.oracles import oracle

oracle("transformers")

from transformers import PreTrainedConfig  # noqa: E402
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

pytestmark = pytest.mark.oracle


def language_models() -> Iterator[tuple[type[PreTrainedConfig], str]]:
    """Text models with their embedding, where the head is the one weight tied to it."""
    for config, model in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        tied = getattr(model, "_tied_weights_keys", None)
        if isinstance(tied, dict) and list(tied) == ["lm_head.weight"]:
            yield config, tied["lm_head.weight"]


@pytest.mark.filterwarnings("ignore")
def test_what_transformers_ties_by_default_is_tied() -> None:
    """Except for language models inside others, whose configs decide it twice, and for CTRL."""
    checked = 0
    for config, embedding in language_models():
        if "language_model." in embedding or config.model_type in {"ctrl", "diffusion_gemma"}:
            continue
        is_tied = getattr(config, "tie_word_embeddings", False) is True
        found = find_tied_head([embedding], {"model_type": config.model_type})
        expected = TiedHead(embedding, "lm_head.weight", stored=False)
        assert found == (expected if is_tied else None), config.model_type
        checked += 1
    assert checked > 50


@pytest.mark.filterwarnings("ignore")
def test_what_transformers_ties_along_or_names_otherwise_is_not_separable() -> None:
    """Models of masked language: what they tie is never one head of the name `lm_head.weight`."""
    checked = 0
    for config, model in MODEL_FOR_MASKED_LM_MAPPING.items():
        tied = getattr(model, "_tied_weights_keys", None) or {}
        names = [name for name in dict(tied).values() if name.endswith("embeddings.weight")]
        if config.is_encoder_decoder or list(tied) == ["lm_head.weight"] or not names:
            continue
        found = find_tied_head(names[:1], {"model_type": config.model_type})
        if found is not None:  # CTRL and a few others call their embedding what nobody else does
            assert not found.separable, config.model_type
            checked += 1
    assert checked > 20
