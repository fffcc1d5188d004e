"""An update of one expert is merged into its matrices, and refused where experts are stacked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import WARNED, oracle

oracle("peft")
oracle("transformers")

from peft import LoraConfig, get_peft_model  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import MixtralConfig, MixtralForCausalLM  # noqa: E402

import loratools  # noqa: E402
from loratools.errors import MatchError  # noqa: E402
from tests.oracle._live import load  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
}


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    """A tiny Mixtral as transformers saves it: each expert by itself, as `w1`, `w2` and `w3`."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(MixtralConfig(**SIZES))
    model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    return tmp_path


#: The names of an expert's matrices in the classes of transformers 4, and as in other models.
_EXPERTS = [
    ("block_sparse_moe.experts", {"w1": "w1", "w3": "w3", "w2": "w2"}),
    ("mlp.experts", {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}),
]


def trained_experts(folder: Path, spelling: tuple[str, dict[str, str]]) -> dict[str, Tensor]:
    """Make an adapter of one expert by the real PEFT; return the updates by stored names."""
    stored = load_file(folder / "base" / "model.safetensors")
    outside, names = spelling
    root = nn.Module()
    updates = {}
    for stored_as, name in names.items():
        weight = stored[f"model.layers.1.block_sparse_moe.experts.1.{stored_as}.weight"]
        inner = root
        for word in f"model.layers.1.{outside}.1".split("."):
            inner.add_module(word, inner._modules.get(word) or nn.Module())
            inner = getattr(inner, word)
        rows, columns = weight.shape
        inner.add_module(name, nn.Linear(columns, rows, bias=False))
    adapted = get_peft_model(root, LoraConfig(r=2, lora_alpha=6, target_modules=[*names.values()]))
    for stored_as, name in names.items():
        layer: Any = adapted.get_submodule(f"base_model.model.model.layers.1.{outside}.1.{name}")
        up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
        nn.init.normal_(up)
        updates[f"model.layers.1.block_sparse_moe.experts.1.{stored_as}.weight"] = (
            3 * up.detach().double() @ down.detach().double()
        )
    adapted.save_pretrained(str(folder / "adapter"))
    return updates


@pytest.mark.parametrize("spelling", _EXPERTS, ids=lambda spelling: spelling[0])
def test_an_update_of_one_expert_is_exact(
    mixtral: Path, spelling: tuple[str, dict[str, str]]
) -> None:
    updates = trained_experts(mixtral, spelling)
    loratools.merge(mixtral / "base", mixtral / "adapter", output=mixtral / "merged")
    before = load_file(mixtral / "base" / "model.safetensors")
    for name, tensor in load_file(mixtral / "merged" / "model.safetensors").items():
        exact = before[name].double() + updates.get(name, torch.zeros(()))
        assert torch.equal(tensor, exact.float()), name
    experts = load(MixtralForCausalLM.from_pretrained, mixtral / "merged").model.layers[1].mlp
    gate, up = (f"model.layers.1.block_sparse_moe.experts.1.{w}.weight" for w in ("w1", "w3"))
    wanted = torch.cat([before[gate] + updates[gate], before[up] + updates[up]]).float()
    assert torch.equal(experts.experts.gate_up_proj[1], wanted)


@pytest.mark.parametrize("spelling", _EXPERTS, ids=lambda spelling: spelling[0])
def test_an_update_of_one_expert_of_a_stack_is_refused_with_the_reason(
    mixtral: Path, spelling: tuple[str, dict[str, str]]
) -> None:
    trained_experts(mixtral, spelling)
    message = r"model\.layers\.1\.mlp\.experts\.\w+ stacks the matrices of all experts"
    with pytest.raises(MatchError, match=message):
        loratools.merge(mixtral / "stacked", mixtral / "adapter", output=mixtral / "merged")
    assert not (mixtral / "merged").exists()
