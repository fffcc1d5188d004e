"""Adapters of models of text and images are merged, whichever nesting they and the base have."""

import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.oracles import WARNED, oracle

oracle("peft")
oracle("transformers")

from transformers import Gemma3ForCausalLM  # noqa: E402
from transformers.conversion_mapping import _build_checkpoint_conversion_mapping  # noqa: E402
from transformers.utils import logging  # noqa: E402

import loratools  # noqa: E402
from loratools.names.matching import BaseNames  # noqa: E402
from loratools.names.modules import models_of  # noqa: E402
from tests.oracle._live import assert_changed, assert_same, live, load, logits  # noqa: E402
from tests.oracle._multimodal import TINY, build, inputs, named, respell, with_level  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]
#: The language model in a name, as classes have it that are of text alone.
_TEXT = re.compile(r"^model\.(language_model|text_model)\.")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.mark.parametrize("kind", TINY)
def test_every_matrix_is_found_in_every_nesting_by_its_names_in_all_others(
    kind: str, tmp_path: Path
) -> None:
    """Also by the name that the language model has by itself."""
    model = build(kind)
    nestings = named(model, tmp_path)
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    models = models_of(model.config.to_dict())
    alone = {name: _TEXT.sub("model.", name) for name in nestings["in memory"]}
    for stored in nestings.values():
        base = BaseNames({other: shapes[name] for name, other in stored.items()}, models)
        for targets in (*nestings.values(), alone):
            found = {n: base.match(target, shapes[n]).name for n, target in targets.items()}
            assert found == stored


#: Modules of the language model and of the vision model.
_MODULES = {
    "gemma3": ["q_proj", "v_proj", "up_proj", "fc1"],
    "llava": ["k_proj", "down_proj", "fc2", "linear_1"],
    "qwen2_vl": ["q_proj", "gate_proj", "qkv", "fc1"],
    "qwen2_5_vl": ["q_proj", "down_proj", "qkv", "proj"],
}


@pytest.mark.parametrize("kind", _MODULES)
def test_an_adapter_computes_the_same_in_every_nesting(kind: str, tmp_path: Path) -> None:
    model, given = build(kind), inputs(kind)
    nestings = named(model, tmp_path / "saved")
    model.save_pretrained(tmp_path / "in memory", save_original_format=False)
    for version in ("saved", "in memory"):
        folder = tmp_path / f"{version}, transformers 4"
        shutil.copytree(tmp_path / version, folder)
        respell(folder / "model.safetensors", with_level)
    before = logits(model, given)
    expected = live(model, tmp_path / "adapter", given, target_modules=_MODULES[kind])
    assert_changed(expected, before)
    spellings = [*nestings]
    for base, spelling in zip(spellings, spellings[1:] + spellings[:1], strict=True):
        adapter = shutil.copytree(tmp_path / "adapter", tmp_path / f"adapter, {spelling}")
        keys = partial(_key, nestings[spelling])
        respell(adapter / "adapter_model.safetensors", keys)
        loratools.merge(tmp_path / base, adapter, output=tmp_path / f"merged, {base}")
        merged = load(type(model).from_pretrained, tmp_path / f"merged, {base}")
        assert_same(logits(merged, given), expected)


def _key(names: Mapping[str, str], key: str) -> str:
    """A key of PEFT's with its module spelled in another nesting."""
    module, part = key.removeprefix("base_model.model.").split(".lora_")
    return f"base_model.model.{names[f'{module}.weight'].removesuffix('.weight')}.lora_{part}"


@pytest.mark.parametrize("is_old", [True, False])
def test_an_adapter_of_the_language_model_alone_computes_the_same(
    is_old: bool, tmp_path: Path
) -> None:
    """It is trained on the class for text, and merged into the model of text and images."""
    whole = build("gemma3")
    whole.save_pretrained(tmp_path / "base", save_original_format=is_old)
    text = Gemma3ForCausalLM(whole.config.text_config)
    inner = whole.model.language_model.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in inner.items()}
    text.load_state_dict(tensors | {"lm_head.weight": whole.lm_head.weight})
    given = {"input_ids": torch.arange(8, 40)[None]}
    modules = ["q_proj", "o_proj", "down_proj", "lm_head"]
    expected = live(text, tmp_path / "adapter", given, target_modules=modules)
    loratools.merge(tmp_path / "base", tmp_path / "adapter", output=tmp_path / "merged")
    merged = load(type(whole).from_pretrained, tmp_path / "merged")
    assert_same(logits(merged, given), expected)
    assert_changed(expected, logits(whole, given))


def test_every_prefix_that_several_model_types_have_renamed_is_known() -> None:
    """transformers' conversions of names that begin with a word, as far as they say just this."""
    renamed: dict[tuple[str, str], list[str]] = {}
    for model, conversions in _build_checkpoint_conversion_mapping().items():
        for one in conversions:
            source, target = (*one.source_patterns, *one.target_patterns)[:2]
            old = re.fullmatch(r"\^([\w\\.]+?)(\(\?!.*\))?(\\\.)?(\(\.\+\))?", source)
            new = re.fullmatch(r"([\w\\.]*?)(\\\.|\.)?(\\1)?", target)
            if type(one).__name__ in ("WeightRenaming", "PrefixChange") and old and new:
                pair = (old[1].replace("\\", ""), new[1].replace("\\", ""))
                renamed.setdefault(pair, []).append(model)
    shared = {pair: models for pair, models in renamed.items() if len(models) > 2}
    assert len(shared) > 10
    inner = "layers.0.q.weight"
    for prefixes, models in shared.items():
        saved, in_memory = (f"{prefix}.{inner}".lstrip(".") for prefix in prefixes)
        for one, other in ((saved, in_memory), (in_memory, saved)):
            base = BaseNames({one: (4, 3), f"other.{inner}": (5, 3)})
            assert base.match(other, (4, 3)).name == one, models
