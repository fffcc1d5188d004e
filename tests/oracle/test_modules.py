"""A merge into fused weights computes what PEFT does with them apart, and the other way round."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import WARNED, oracle

oracle("peft")
oracle("transformers")

from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
)
from transformers.conversion_mapping import _build_checkpoint_conversion_mapping  # noqa: E402

import loratools  # noqa: E402
from loratools.names.matching import BaseNames  # noqa: E402
from loratools.names.modules import known_modules, models_of  # noqa: E402
from tests.oracle._live import assert_changed, assert_same, live, load, logits  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.2,
}
INPUTS = {"input_ids": torch.arange(48).reshape(3, 16)}
APART = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
FUSED = ("qkv_proj", "gate_up_proj")


@pytest.fixture
def models(tmp_path: Path) -> tuple[nn.Module, nn.Module]:
    """A tiny Llama and the Phi-3 with the same weights, both saved."""
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**SIZES))
    phi = Phi3ForCausalLM(Phi3Config(**SIZES))
    phi.load_state_dict(fused(llama.state_dict()))
    assert_same(logits(phi, INPUTS), logits(llama, INPUTS))
    llama.save_pretrained(tmp_path / "llama")
    phi.save_pretrained(tmp_path / "phi")
    return llama, phi


def fused(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    for name in tensors:
        for parts, whole in zip(APART, FUSED, strict=True):
            if f".{parts[0]}." in name:
                pieces = [found.pop(name.replace(parts[0], part)) for part in parts]
                found[name.replace(parts[0], whole)] = torch.cat(pieces)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": [*APART[0], *APART[1], "o_proj", "down_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        {"target_modules": ["k_proj", "up_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "gate_proj"], "use_dora": True},
    ],
    ids=str,
)
def test_parts_on_a_fused_base_compute_the_same(
    models: tuple[nn.Module, nn.Module], tmp_path: Path, settings: dict[str, Any]
) -> None:
    llama, phi = models
    expected = live(llama, tmp_path / "adapter", INPUTS, **settings)
    assert_changed(expected, logits(phi, INPUTS))
    loratools.merge(tmp_path / "phi", tmp_path / "adapter", output=tmp_path / "merged")
    merged = load(Phi3ForCausalLM.from_pretrained, tmp_path / "merged")
    assert_same(logits(merged, INPUTS), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": [*FUSED, "o_proj"]},
        {"target_modules": ["qkv_proj"], "use_dora": True},
        {"target_modules": ["gate_up_proj"], "bias": "none", "use_rslora": True},
    ],
    ids=str,
)
def test_a_fused_adapter_on_a_base_with_the_parts_computes_the_same(
    models: tuple[nn.Module, nn.Module], tmp_path: Path, settings: dict[str, Any]
) -> None:
    llama, phi = models
    expected = live(phi, tmp_path / "adapter", INPUTS, **settings)
    assert_changed(expected, logits(llama, INPUTS))
    loratools.merge(tmp_path / "llama", tmp_path / "adapter", output=tmp_path / "merged")
    merged = load(LlamaForCausalLM.from_pretrained, tmp_path / "merged")
    assert_same(logits(merged, INPUTS), expected)


#: Classes with a `gate_up_proj` that transformers does not convert: only their code has the order.
_GATED = {
    "phi3": "Phi3MLP",
    "phi4_multimodal": "Phi4MultimodalMLP",
    "glm": "GlmMLP",
    "glm4": "Glm4MLP",
    "glm4v": "Glm4vTextMLP",
    "glm_ocr": "GlmOcrTextMLP",
    "glm_image": "GlmImageTextMLP",
    "dia": "DiaMLP",
}


@pytest.mark.parametrize("kind", _GATED)
def test_rows_of_up_multiply_what_a_gated_layer_computes(kind: str) -> None:
    """Twice these rows are twice the result, which is so of none of the gate's, through SiLU."""
    code = import_module(f"transformers.models.{kind}.modeling_{kind}")
    torch.manual_seed(0)
    config = SimpleNamespace(hidden_size=4, intermediate_size=6, hidden_act="silu")
    layer = getattr(code, _GATED[kind])(config)
    base = BaseNames({"mlp.gate_up_proj.weight": (12, 4)}, frozenset({kind}))
    (run,) = base.match("mlp.up_proj.weight", (6, 4)).places[0].runs
    given = torch.randn(3, 4)
    before = layer(given).detach()
    with torch.no_grad():
        layer.gate_up_proj.weight[run.at : run.at + run.count] *= 2
        assert torch.equal(layer(given), 2 * before)


def converters() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """What transformers cuts into parts, or joins: the model, the fused module, and the parts.

    Where something else is done to the parts (heads are permuted, or rows interleaved), they are no
    runs of rows.
    """
    for model, conversions in _build_checkpoint_conversion_mapping().items():
        for found in conversions:
            operations = [type(one).__name__ for one in getattr(found, "operations", None) or ()]
            dims = {getattr(one, "dim", 0) for one in getattr(found, "operations", None) or ()}
            if dims != {0} or operations not in (["Chunk"], ["Split"], ["Concatenate"]):
                continue
            sides = found.source_patterns, found.target_patterns
            parts, whole = sides if operations == ["Concatenate"] else sides[::-1]
            modules = [_module(pattern) for pattern in (*whole, *parts)]
            if all("." in module for module in modules):
                yield model, modules[0], tuple(modules[1:])


def _module(pattern: str) -> str:
    """The last two words of the module that a pattern means."""
    path = re.sub(r"\.(weight|bias)$", "", pattern.replace("\\", "")).lstrip(".")
    return ".".join(path.split(".")[-2:])


#: What is no matrix of a module: convolutions of one channel each, corrections of experts, and the
#: parameters of torch's `MultiheadAttention`.
_OTHERS = ("conv1d", "e_score_correction_bias", "in_proj_")


def test_every_fusion_that_transformers_converts_is_known() -> None:
    models: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for known in known_modules():
        parts = tuple(".".join(part[-2:]) for part, _ in known.parts)
        models.setdefault((".".join(known.whole[-2:]), parts), set()).update(known.models)
    missing = [
        (model, whole, parts)
        for model, whole, parts in converters()
        if not any(word in f"{whole} {parts}" for word in _OTHERS)
        if not any(
            name.replace("_", "") in model.replace("_", "").lower()
            for name in models.get((whole, parts), ())
        )
    ]
    assert missing == []


#: Sizes of tiny models, by any of the names that configs have for them.
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_local_experts": 2,
    "num_experts": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
    "use_swiglu_ffn": True,
}
#: Model types that transformers saves with other names than they have in memory, and some others.
_KINDS = (
    "bailing_hybrid",
    "beit",
    "deepseek_v3",
    "deepseek_v4",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "ernie4_5_moe",
    "glm4",
    "glm4_moe",
    "granitemoe",
    "gte",
    "hrm_text",
    "hunyuan_v1_moe",
    "hy_v3",
    "ijepa",
    "jamba",
    "jina_embeddings_v3",
    "kimi_linear",
    "laguna",
    "llama",
    "minimax",
    "minimax_m2",
    "mixtral",
    "modernbert",
    "mpt",
    "nemotron_h",
    "nomic_bert",
    "olmoe",
    "phi3",
    "phimoe",
    "pixio",
    "qwen2_moe",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "vit",
    "vit_mae",
    "vivit",
)


@pytest.mark.parametrize("kind", _KINDS)
def test_every_linear_module_in_memory_is_its_rows_on_disk(kind: str, tmp_path: Path) -> None:
    known = AutoConfig.for_model(kind)
    sizes = {name: size for name, size in _TINY.items() if hasattr(known, name)}
    config = AutoConfig.for_model(kind, **sizes, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = _class(config).from_config(config)
    model.save_pretrained(tmp_path)
    disk = load_file(tmp_path / "model.safetensors")
    models = models_of(config.to_dict())
    base = BaseNames({name: tuple(tensor.shape) for name, tensor in disk.items()}, models)
    modules = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert modules
    for name, weight in modules.items():
        (place,) = base.match(f"{name}.weight", tuple(weight.shape)).places
        rows = [disk[place.name][run.at : run.at + run.count] for run in place.runs]
        assert torch.equal(torch.cat(rows), weight), name


def _class(config: PreTrainedConfig) -> Any:
    """The class of the usual model of this type: one with a head, if there is one."""
    heads = (AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForMaskedLM)
    kind = type(config)
    found = (cls for cls in heads if isinstance(cls._model_mapping.get(kind, None), type))
    return next(found, AutoModel)
