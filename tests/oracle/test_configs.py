"""The config of a LoRA as PEFT has it in memory."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType

import loratools
from loratools import ArgumentError


def test_a_config_of_peft_in_memory_is_that_of_its_file(tmp_path: Path) -> None:
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["v", "q"], task_type=TaskType.CAUSAL_LM)
    config.save_pretrained(str(tmp_path / "peft"))
    factors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)}
    held = config.to_dict()
    adapter = loratools.adapter_from_tensors(factors, config=held)
    assert adapter["q"].scaling == 4
    saved = adapter.save(tmp_path / "ours")
    ours, theirs = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (saved, tmp_path / "peft")
    )
    assert sorted(ours.pop("target_modules")) == sorted(theirs.pop("target_modules"))
    assert ours == {**theirs, **{key: ours[key] for key in ours if key not in theirs}}
    with pytest.raises(ArgumentError, match=r"not a LoraConfig; give its to_dict\(\)$"):
        loratools.adapter_from_tensors(factors, config=config)  # type: ignore[arg-type]
