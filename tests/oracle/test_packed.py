"""A model as gpt-oss is published: experts in MXFP4, attention plain, read back by transformers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.errors import UnsupportedError
from tests.merged import config_of
from tests.oracles import WARNED, oracle

oracle("peft")

import transformers  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers.integrations.mxfp4 import convert_moe_packed_tensors  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

CONFIG: dict[str, Any] = {
    "num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 64,
    "hidden_size": 32, "intermediate_size": 32, "head_dim": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
QUANTISATION = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
    ],
}  # fmt: skip
EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Made:
    """A base with packed experts, and the tensors that transformers makes of it."""

    path: Path
    plain: dict[str, Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Random codes are as good as any: they are decoded by transformers."""
    torch.manual_seed(0)
    config = transformers.GptOssConfig(**CONFIG)
    stored: dict[str, Tensor] = {}
    plain = transformers.GptOssForCausalLM(config).bfloat16().state_dict()
    for name, weight in plain.items():
        if name.endswith(EXPERTS):
            experts, inputs, outputs = weight.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16)).to(torch.uint8)
            scales = torch.randint(118, 124, (experts, outputs, inputs // 32)).to(torch.uint8)
            stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            plain[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
        else:
            stored[name] = weight
    path = tmp_path_factory.mktemp("gpt-oss")
    save_file(stored, path / "model.safetensors", {"format": "pt"})
    fields = {**config.to_dict(), "architectures": ["GptOssForCausalLM"], "dtype": "bfloat16"}
    fields["quantization_config"] = QUANTISATION
    (path / "config.json").write_text(json.dumps(fields))
    return Made(path, plain)


def loaded(path: Path) -> transformers.GptOssForCausalLM:
    """The model as transformers loads it where MXFP4 has no kernel: with decoded experts."""
    return transformers.GptOssForCausalLM.from_pretrained(path, dtype=torch.bfloat16)


def trained(base: Made, folder: Path, *modules: str, **config: Any) -> Path:
    """An adapter by PEFT, trained on the model as transformers loads it, or as good as."""
    torch.manual_seed(1)
    lora = LoraConfig(
        r=4, lora_alpha=6, target_modules=list(modules), init_lora_weights=False, **config
    )
    get_peft_model(loaded(base.path), lora).save_pretrained(str(folder))
    return folder


def test_attention_is_merged_beside_packed_experts(base: Made, tmp_path: Path) -> None:
    adapter = trained(base, tmp_path / "adapter", *ATTENTION)
    report = loratools.merge(base.path, adapter, output=tmp_path / "merged")
    before, after, factors = (
        load_file(path)
        for path in (
            base.path / "model.safetensors",
            tmp_path / "merged" / "model.safetensors",
            adapter / "adapter_model.safetensors",
        )
    )
    expected = dict(before)
    for key, up in factors.items():
        if key.endswith("lora_B.weight"):
            name = key.removeprefix("base_model.model.").replace("lora_B.", "")
            down = factors[key.replace("lora_B", "lora_A")]
            update = 6 / 4 * up.double() @ down.double()
            expected[name] = (before[name].double() + update).to(torch.bfloat16)
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert report.to_json()["accounting"]["weights_changed"] == 2 * len(ATTENTION)
    assert report.to_json()["packed"] == [{"format": "MXFP4", "weights": 4, "tensors": 8}]
    assert config_of(tmp_path / "merged") == config_of(base.path)
    # transformers decodes the same experts beside the new attention, and computes with both.
    model = transformers.GptOssForCausalLM(transformers.GptOssConfig(**CONFIG)).bfloat16().eval()
    model.load_state_dict({**base.plain, **{n: t for n, t in expected.items() if n in base.plain}})
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        assert torch.equal(loaded(tmp_path / "merged")(tokens).logits, model(tokens).logits)


def test_updates_of_packed_experts_are_refused(base: Made, tmp_path: Path) -> None:
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = trained(base, tmp_path / "adapter", "q_proj", target_parameters=parameters)
    with pytest.raises(UnsupportedError, match="target_parameters"):
        loratools.merge(base.path, adapter, output=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
