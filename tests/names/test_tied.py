"""Which embedding and head are one tensor, by config and by name."""

from collections.abc import Mapping
from typing import Any

import pytest

from loratools.names.tied import (
    TiedHead,
    find_tied_head,
    find_used_head,
    is_embedding,
    is_lookup,
)

TIED: Mapping[str, Any] = {"tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("model.embed_tokens.weight", "lm_head.weight"),
        ("transformer.wte.weight", "lm_head.weight"),
        ("transformer.tokens_embed.weight", "lm_head.weight"),
        ("wte.weight", "lm_head.weight"),
        ("transformer.word_embeddings.weight", "lm_head.weight"),
        ("gpt_neox.embed_in.weight", "embed_out.weight"),
        ("shared.weight", "lm_head.weight"),
        ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
        ("model.language_model.embed_tokens.weight", "lm_head.weight"),
    ],
)
def test_head_that_is_not_stored_is_named_as_the_model_names_it(embedding: str, head: str) -> None:
    names = [embedding, "model.layers.0.q.weight"]
    assert find_tied_head(names, TIED) == TiedHead(embedding, head, stored=False)


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight"])
def test_head_that_is_stored_keeps_its_name(head: str) -> None:
    names = ["model.embed_tokens.weight", head]
    expected = TiedHead("model.embed_tokens.weight", head, stored=True)
    assert find_tied_head(names, TIED) == expected


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        (None, False),
        ({}, False),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": "yes"}, False),
        ({"model_type": "llama"}, False),
        ({"model_type": "codegen"}, False),
        ({"model_type": "gpt2"}, True),
        ({"model_type": "gemma2"}, True),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, False),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "llava", "text_config": {"tie_word_embeddings": False}}, False),
        ({"text_config": None, "model_type": "opt"}, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False),
    ],
    ids=str,
)
def test_config_says_it_or_the_model_type_does(
    config: Mapping[str, Any] | None, tied: bool
) -> None:
    assert (find_tied_head(["embed_tokens.weight"], config) is not None) is tied


@pytest.mark.parametrize(
    ("config", "separable"),
    [
        ({"model_type": "gpt2"}, True),
        ({"model_type": "llama", "tie_word_embeddings": True}, True),
        ({"model_type": "a_new_one", "tie_word_embeddings": True}, True),
        ({"model_type": "bert"}, False),
        ({"model_type": "modernbert", "tie_word_embeddings": True}, False),
        ({"model_type": "t5", "is_encoder_decoder": True}, False),
        ({"model_type": "bart", "is_encoder_decoder": True}, False),
        ({"model_type": "gpt2", "is_encoder_decoder": False}, True),
    ],
    ids=str,
)
def test_encoders_and_encoder_decoders_tie_more_than_a_head(
    config: Mapping[str, Any], separable: bool
) -> None:
    """Stored apart, their decoder's bias or their second embedding would start anew."""
    found = find_tied_head(["embeddings.word_embeddings.weight"], config)
    assert found is not None
    assert found.separable is separable


@pytest.mark.parametrize(
    "names",
    [
        ["lm_head.weight"],
        ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
        ["my_embed_tokens.weight"],
    ],
    ids=str,
)
def test_without_one_clear_embedding_nothing_is_tied(names: list[str]) -> None:
    assert find_tied_head(names, TIED) is None


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("model.embed_tokens.weight", True),
        ("lm_head.weight", True),
        ("transformer.wte.weight", True),
        ("output.weight", True),
        ("model.layers.0.attention.output.weight", False),  # no model has a head in each layer
        ("model.norm.weight", False),
        ("model.embed_tokens.bias", False),
        ("model.embed_tokens_2.weight", False),
    ],
)
def test_embeddings_and_heads_are_known_by_the_ends_of_their_names(name: str, is_one: bool) -> None:
    assert is_embedding(name) is is_one


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("model.embed_tokens.weight", 100, True),
        ("transformer.wpe.weight", 64, True),
        ("bert.embeddings.token_type_embeddings.weight", 2, True),
        ("model.my_embedder.weight", 100, True),
        ("x_embedder.weight", 64, False),
        ("embed_out.weight", 100, False),
        ("lm_head.weight", 100, False),
        ("model.layers.0.q_proj.weight", 100, False),
    ],
)
def test_embeddings_are_known_by_their_names_or_rows(name: str, rows: int, expected: bool) -> None:
    assert is_lookup(name, rows, {"vocab_size": 100}) is expected


@pytest.mark.parametrize(
    ("architecture", "kind", "stored", "used"),
    [
        ("LlamaForSequenceClassification", "llama", False, False),
        ("LlamaForSequenceClassification", "llama", True, True),
        ("LlamaForCausalLM", "llama", False, True),
        ("LlamaModel", "llama", False, True),
        ("BertForTokenClassification", "bert", False, False),
        ("BertModel", "bert", False, False),
        ("BertForMaskedLM", "bert", False, True),
        (None, "bert", False, True),
    ],
)
def test_head_of_a_class_that_has_none_is_tied_to_nothing(
    architecture: str | None, kind: str, stored: bool, used: bool
) -> None:
    """A class that only some head is loaded with, such as `LlamaModel`, may get one."""
    config = {**TIED, "model_type": kind, "architectures": architecture and [architecture]}
    names = ["embed_tokens.weight", *["lm_head.weight"] * stored]
    assert (find_used_head(names, config) is not None) is used
