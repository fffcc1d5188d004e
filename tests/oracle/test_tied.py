"""Models with tied embeddings, heads of their own, and Conv1D: the merged one computes the same.

What is compared with is PEFT's unmerged forward, after reading the adapter back: on tied
embeddings its merge changes both ends, of which the adapter was trained on one.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import WARNED, oracle

oracle("peft")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.utils import logging  # noqa: E402

import loratools  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]
Q = ["q_proj"]
LLAMA: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": [*Q, "embed_tokens"]},
    "embedding, the head follows": {
        "target_modules": [*Q, "embed_tokens"],
        "ensure_weight_tying": True,
    },
    "embedding of another rank, the head follows": {
        "target_modules": [*Q, "embed_tokens"],
        "rank_pattern": {"embed_tokens": 2},
        "ensure_weight_tying": True,
    },
    "head": {"target_modules": [*Q, "lm_head"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "both, DoRA": {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
    "embedding saved": {"target_modules": Q, "modules_to_save": ["embed_tokens"]},
    "embedding saved, the head follows": {
        "target_modules": Q,
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "head saved, the embedding follows and was to have factors": {
        "target_modules": [*Q, "embed_tokens"],
        "modules_to_save": ["lm_head"],
        "ensure_weight_tying": True,
    },
    "head saved": {"target_modules": Q, "modules_to_save": ["lm_head"]},
    "tokens": {"target_modules": Q, "trainable_token_indices": [1, 5]},
    "tokens of the head": {"target_modules": Q, "trainable_token_indices": {"lm_head": [2]}},
    "tokens of both": {
        "target_modules": Q,
        "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [2]},
    },
    "the same tokens of both": {
        "target_modules": Q,
        "trainable_token_indices": {"embed_tokens": [1, 5], "lm_head": [1, 5]},
    },
    "tokens and head": {"target_modules": [*Q, "lm_head"], "trainable_token_indices": [1, 5]},
    "norm saved, layers chosen": {
        "target_modules": Q,
        "modules_to_save": ["norm"],
        "layers_to_transform": [1, 3],
    },
}
GPT2: dict[str, dict[str, Any]] = {
    "every layer": {"target_modules": ["c_attn", "c_proj", "c_fc", "wte", "wpe"]},
    "head": {"target_modules": ["c_attn", "lm_head"]},
    "embedding alone, though the head was to follow": {
        "target_modules": ["c_attn", "wte"],
        "ensure_weight_tying": True,
    },
    "square only": {"target_modules": ["attn.c_proj"]},
    "tokens": {"target_modules": ["c_attn"], "trainable_token_indices": [3]},
    "norm saved": {"target_modules": ["c_attn"], "modules_to_save": ["ln_1"]},
    "biases": {"target_modules": ["c_attn"], "bias": "lora_only"},
}


def compared(base: Path, folder: Path, load: Any, settings: dict[str, Any]) -> None:
    """Logits of some thousand tokens: in float32, sums of up to 200 terms, 35 matrices deep."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    adapted = get_peft_model(load(base).float(), LoraConfig(r=4, lora_alpha=8, **settings))
    perturb(adapted)
    adapted.save_pretrained(str(folder / "adapter"))
    tokens = torch.arange(64).reshape(4, 16)
    expected = logits(PeftModel.from_pretrained(load(base).float(), folder / "adapter"), tokens)
    options = loratools.MergeOptions(dtype="float32")
    report = loratools.merge(base, folder / "adapter", output=folder / "merged", options=options)
    actual = logits(load(folder / "merged"), tokens)
    allowed = 4 * (200 * 35) ** 0.5 * 2.0**-24 * float(expected.abs().max())
    assert float((actual - expected).abs().max()) <= allowed
    assert float((expected - logits(load(base).float(), tokens)).abs().max()) > 1000 * allowed
    notes = [note for adapter in report.plan.adapters for note in adapter.notes]
    assert not [note.message for note in notes if note.severity != "info"]


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" in name:
            parameter.mul_(1.25)
        elif parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) / 16)


@torch.no_grad()
def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    result: Tensor = model.eval()(tokens).logits
    return result


@pytest.mark.parametrize("settings", LLAMA.values(), ids=LLAMA.keys())
@pytest.mark.parametrize("base", ["stories260k", "stories260k-bf16-sharded"])
def test_merged_llama_computes_the_same(
    fixtures: Path, tmp_path: Path, base: str, settings: dict[str, Any]
) -> None:
    """One base stores a copy of its tied head, the other does not."""
    compared(fixtures / base, tmp_path, AutoModelForCausalLM.from_pretrained, settings)


@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("settings", GPT2.values(), ids=GPT2.keys())
def test_merged_gpt2_computes_the_same(
    fixtures: Path, tmp_path: Path, claimed: bool, settings: dict[str, Any]
) -> None:
    """PEFT corrects a false `fan_in_fan_out` by the layers' class; a file has only their shape."""
    load = AutoModelForCausalLM.from_pretrained
    settings = settings | {"fan_in_fan_out": claimed}
    compared(fixtures / "tiny-gpt2", tmp_path, load, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query", "word_embeddings"]},
        {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]},
        {"target_modules": ["query", "word_embeddings"], "ensure_weight_tying": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_embedding_of_a_classifier_is_tied_to_nothing(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 64, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        kind, **sizes, intermediate_size=8, tie_word_embeddings=True, pad_token_id=0
    )
    names = {"query": "q_proj", "word_embeddings": "embed_tokens"} if kind == "llama" else {}
    settings = {
        key: [names.get(name, name) for name in value] if isinstance(value, list) else value
        for key, value in settings.items()
    }
    load = AutoModelForSequenceClassification
    load.from_config(config).save_pretrained(tmp_path / "base")
    compared(tmp_path / "base", tmp_path, load.from_pretrained, settings)


@pytest.mark.parametrize("labels", [2, 3])
def test_merged_classifier_computes_the_same(fixtures: Path, tmp_path: Path, labels: int) -> None:
    """The head is new: the base is a language model."""

    def load(folder: Path) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=labels, pad_token_id=0
            )
        return model

    settings = {"target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_CLS"}
    compared(fixtures / "stories260k", tmp_path, load, settings)
