"""Stability AI's Control-LoRAs: factors of shared weights, and all others whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import loratools
from loratools.errors import FormatError, UnsupportedError
from loratools.formats import decode
from tests.adapters import effects
from tests.formats.kohya.modules import bundle
from tests.narrowing import present

CONV, LINEAR = "input_blocks.1.0.in_layers.2", "input_blocks.4.1.proj_in"
TENSORS = {
    f"{CONV}.up": torch.randn(4, 2, 1, 1),
    f"{CONV}.down": torch.randn(2, 3, 3, 3),
    f"{CONV}.bias": torch.randn(4),
    f"{LINEAR}.up": torch.randn(4, 2),
    f"{LINEAR}.down": torch.randn(2, 3),
    "input_hint_block.0.weight": torch.randn(2, 3, 3, 3),
    "zero_convs.0.0.weight": torch.randn(4, 4, 1, 1),
    "lora_controlnet": torch.zeros(0),
}


def test_every_tensor_has_its_place() -> None:
    adapter = decode(bundle(TENSORS))
    assert present(adapter.filed).dialect == "control_lora"
    assert adapter.updates[f"{CONV}.weight"].delta.shape == (4, 3, 3, 3)
    found = effects(adapter)
    for name in (CONV, LINEAR):
        up, down = (TENSORS[f"{name}.{end}"].double().flatten(1) for end in ("up", "down"))
        torch.testing.assert_close(found[f"{name}.weight"], up @ down, rtol=0, atol=0)
    assert found.keys() == {f"{CONV}.weight", f"{LINEAR}.weight"}
    assert list(adapter.replaced) == [
        f"{CONV}.bias", "input_hint_block.0.weight", "zero_convs.0.0.weight",
    ]  # fmt: skip
    assert list(adapter.inert) == ["lora_controlnet"]


def test_it_is_described_and_not_merged_into_the_model_that_it_runs_beside(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "control.safetensors")
    base = {f"{LINEAR}.weight": torch.randn(4, 3)}
    save_file(base, tmp_path / "base.safetensors")
    with pytest.raises(UnsupportedError, match="a copy of the U-Net's encoder"):
        loratools.merge(
            tmp_path / "base.safetensors",
            tmp_path / "control.safetensors",
            output=tmp_path / "out.safetensors",
        )


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(FormatError, match=f"{LINEAR} has .* half an update"):
        decode(bundle({key: t for key, t in TENSORS.items() if key != f"{LINEAR}.up"}))
