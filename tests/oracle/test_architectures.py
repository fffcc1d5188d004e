"""Small models of many architectures: the merged one computes what the adapter computes.

Random weights, read back by transformers from the merged folder; compared with PEFT's unmerged
forward. Where more than a head is tied to the embedding, a change of one end is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.narrowing import present
from tests.oracles import WARNED, oracle

oracle("peft")

import transformers  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import PreTrainedModel  # noqa: E402
from transformers.utils import logging  # noqa: E402

import loratools  # noqa: E402
from loratools.errors import UnsupportedError  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED, pytest.mark.filterwarnings("ignore::FutureWarning")]

LLAMA: Mapping[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "pad_token_id": 0,
}
GROUPED: Mapping[str, Any] = {**LLAMA, "num_key_value_heads": 1}
#: Class, config, a layer to target, and the names of embedding and head.
Architecture = tuple[str, Mapping[str, Any], str, str, str]
DECODERS: Mapping[str, Architecture] = {
    "bloom": ("BloomForCausalLM", {"n_layer": 2, "n_head": 2},
              "query_key_value", "word_embeddings", "lm_head"),
    "falcon": ("FalconForCausalLM", {}, "query_key_value", "word_embeddings", "lm_head"),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "head_dim": 16},
               "q_proj", "embed_tokens", "lm_head"),
    "gpt_neo": ("GPTNeoForCausalLM", {"num_layers": 2, "num_heads": 2,
                                      "max_position_embeddings": 64,
                                      "attention_types": [[["global", "local"], 1]]},
                "q_proj", "wte", "lm_head"),
    "gpt_neox": ("GPTNeoXForCausalLM", {}, "query_key_value", "embed_in", "embed_out"),
    "mamba": ("MambaForCausalLM", {"state_size": 4}, "in_proj", "embeddings", "lm_head"),
    "mixtral": ("MixtralForCausalLM", {**GROUPED, "num_local_experts": 2},
                "q_proj", "embed_tokens", "lm_head"),
    "opt": ("OPTForCausalLM", {"ffn_dim": 40, "word_embed_proj_dim": 32,
                               "max_position_embeddings": 64},
            "q_proj", "embed_tokens", "lm_head"),
    "qwen2, tied": ("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True},
                    "q_proj", "embed_tokens", "lm_head"),
    "qwen2, not tied": ("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": False},
                        "q_proj", "embed_tokens", "lm_head"),
    "smollm3": ("SmolLM3ForCausalLM", GROUPED, "q_proj", "embed_tokens", "lm_head"),
}  # fmt: skip
BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
}  # fmt: skip
OTHERS: Mapping[str, Architecture] = {
    "bert": ("BertForMaskedLM", {}, "query", "word_embeddings", "decoder"),
    "roberta": ("RobertaForMaskedLM", {}, "query", "word_embeddings", "decoder"),
    "distilbert": ("DistilBertForMaskedLM", {"dim": 32, "n_layers": 2, "n_heads": 2,
                                             "hidden_dim": 40},
                   "q_lin", "word_embeddings", "vocab_projector"),
    "modernbert": ("ModernBertForMaskedLM", {"bos_token_id": 1, "eos_token_id": 2,
                                             "cls_token_id": 1, "sep_token_id": 2},
                   "Wqkv", "tok_embeddings", "decoder"),
    "t5": ("T5ForConditionalGeneration", {"d_model": 32, "d_kv": 16, "num_layers": 2,
                                          "num_heads": 2, "d_ff": 40, "decoder_start_token_id": 0},
           "q", "shared", "lm_head"),
    "bart": ("BartForConditionalGeneration", BART, "q_proj", "shared", "lm_head"),
}  # fmt: skip


def make_base(architecture: Architecture, folder: Path) -> type[PreTrainedModel]:
    """A model of random weights, saved; its class."""
    name, settings, *_ = architecture
    model_class: type[PreTrainedModel] = getattr(transformers, name)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = model_class(present(model_class.config_class)(**{**LLAMA, **settings}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or (name.endswith("weight") and parameter.dim() == 2):
                parameter.normal_(std=0.2)  # more than at first, so that every layer matters
    model.save_pretrained(folder)
    return model_class


@torch.no_grad()
def make_adapter(model: PreTrainedModel, targets: list[str], folder: Path) -> None:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) / 8)
    adapted.save_pretrained(str(folder))


@torch.no_grad()
def logits(model: PreTrainedModel | PeftModel) -> Tensor:
    tokens = torch.arange(3, 67).reshape(4, 16)
    more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    result: Tensor = model.eval()(input_ids=tokens, **more).logits
    return result


def compared(architecture: Architecture, targets: list[str], folder: Path) -> None:
    """Two layers and a head, of sums of up to 40 terms: as for the fixtures."""
    load = make_base(architecture, folder / "base").from_pretrained
    make_adapter(load(folder / "base"), targets, folder / "adapter")
    expected = logits(PeftModel.from_pretrained(load(folder / "base"), folder / "adapter"))
    loratools.merge(folder / "base", folder / "adapter", output=folder / "merged")
    actual = logits(load(folder / "merged"))
    allowed = 4 * (40 * 7 * 3) ** 0.5 * 2.0**-24 * float(expected.abs().max())
    assert float((actual - expected).abs().max()) <= allowed
    assert float((expected - logits(load(folder / "base"))).abs().max()) > 1000 * allowed


@pytest.mark.parametrize("end", ["layers", "embedding", "head"])
@pytest.mark.parametrize("architecture", DECODERS.values(), ids=DECODERS.keys())
def test_merged_decoder_computes_the_same(
    architecture: Architecture, end: str, tmp_path: Path
) -> None:
    *_, layer, embedding, head = architecture
    more = {"layers": [], "embedding": [embedding], "head": [head]}
    compared(architecture, [layer, *more[end]], tmp_path)


@pytest.mark.parametrize("architecture", OTHERS.values(), ids=OTHERS.keys())
def test_merged_encoder_computes_the_same(architecture: Architecture, tmp_path: Path) -> None:
    compared(architecture, [architecture[2]], tmp_path)


@pytest.mark.parametrize("architecture", OTHERS.values(), ids=OTHERS.keys())
def test_change_of_one_end_where_more_is_tied_is_refused(
    architecture: Architecture, tmp_path: Path
) -> None:
    load = make_base(architecture, tmp_path / "base").from_pretrained
    targets = [architecture[2], architecture[3]]
    make_adapter(load(tmp_path / "base"), targets, tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match="cannot store them apart"):
        loratools.merge(tmp_path / "base", tmp_path / "adapter", output=tmp_path / "merged")
