"""Overlays and programs that do not know them: none is loaded in place of a whole model."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.oracles import WARNED, oracle

oracle("transformers")
oracle("peft")
accelerate = oracle("accelerate")

import transformers  # noqa: E402
from peft import PeftModel  # noqa: E402

import loratools  # noqa: E402
from loratools.merging.execute import WriteOptions  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]


@pytest.fixture
def overlay(fixtures: Path, tmp_path: Path) -> Path:
    """An overlay with a config, and most of the tensors."""
    loratools.merge(
        fixtures / "stories260k",
        [fixtures / "adapters/plain", fixtures / "adapters/embedding-vocab"],
        output=tmp_path / "overlay",
        write=WriteOptions(only_changed=True),
    )
    return tmp_path / "overlay"


@pytest.mark.parametrize("has_config", [False, True])
def test_transformers_loads_no_overlay_as_a_model(overlay: Path, has_config: bool) -> None:
    if has_config:  # whoever puts all files into one folder
        shutil.copytree(overlay / "beside", overlay, dirs_exist_ok=True)
    message = "no file named model.safetensors" if has_config else "config"
    with pytest.raises((OSError, ValueError), match=message):
        transformers.AutoModelForCausalLM.from_pretrained(overlay)


def test_accelerate_loads_no_overlay_into_a_model(overlay: Path, fixtures: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(fixtures / "stories260k")
    with pytest.raises(ValueError, match=r"containing a `\.index\.json` file"):
        accelerate.load_checkpoint_in_model(model, overlay)


def test_peft_loads_no_overlay_as_an_adapter(overlay: Path, fixtures: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(fixtures / "stories260k")
    with pytest.raises(ValueError, match=r"Can't find 'adapter_config\.json'"):
        PeftModel.from_pretrained(base, overlay)


def test_transformers_loads_what_base_and_overlay_make(
    overlay: Path, fixtures: Path, tmp_path: Path
) -> None:
    loratools.merge(f"{fixtures / 'stories260k'}+{overlay}", [], output=tmp_path / "whole")
    load: Any = transformers.AutoModelForCausalLM.from_pretrained
    model, told = load(tmp_path / "whole", output_loading_info=True)
    assert not any(told.values())
    assert model.config.vocab_size == 520
