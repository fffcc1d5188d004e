"""Merges compared with the weights that microsoft/LoRA's layers have in eval mode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from tests.oracles import oracle

lora: Any = oracle("loralib")

pytestmark = pytest.mark.oracle

SETTINGS = {"r": 2, "lora_alpha": 8}
PARTS = {**SETTINGS, "enable_lora": [True, False, True]}
LAYERS: dict[str, Callable[[], Any]] = {
    "linear": lambda: lora.Linear(5, 6, **SETTINGS),
    "transposed": lambda: lora.Linear(5, 6, **SETTINGS, fan_in_fan_out=True),
    "merged": lambda: lora.MergedLinear(5, 12, **PARTS),
    "merged-transposed": lambda: lora.MergedLinear(5, 12, **PARTS, fan_in_fan_out=True),
    "embedding": lambda: lora.Embedding(9, 5, **SETTINGS),
    "convolution": lambda: lora.Conv2d(4, 6, 3, **SETTINGS),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("is_alone", [True, False])
def test_merge_is_what_the_layer_merges(name: str, is_alone: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = torch.nn.ModuleDict({"q": LAYERS[name]()}).double().train()
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter)
    # A convolution is inside of its layer.
    state = {k.replace("conv.", ""): t.clone().contiguous() for k, t in model.state_dict().items()}
    base = {key: tensor for key, tensor in state.items() if "lora_" not in key}
    save_file(base, tmp_path / "base.safetensors")
    is_alone = is_alone and name != "convolution"  # which is recognised by its weight
    stored = {key: t for key, t in state.items() if not is_alone or "lora_" in key}
    save_file(stored, tmp_path / "adapter.safetensors")
    loratools.merge(
        tmp_path / "base.safetensors",
        tmp_path / "adapter.safetensors",
        output=tmp_path / "merged.safetensors",
        dialect_options={"alpha": "8", "enable_lora": "101"},
    )
    model.eval()
    (expected,) = (t for key, t in model.state_dict().items() if key.endswith("weight"))
    merged = load_file(tmp_path / "merged.safetensors")["q.weight"]
    # Sums of a few products, each rounded to float64.
    eps = torch.finfo(torch.float64).eps
    allowed = 8 * eps * expected.abs().max().item()
    torch.testing.assert_close(merged, expected, rtol=8 * eps, atol=allowed)
    assert not torch.equal(merged, base["q.weight"])
