"""Adapters that loratools writes, read by PEFT: every key is used, and updates are the right ones.

What is right is computed from the updates that PEFT itself makes of the adapter that went in.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.oracles import WARNED, oracle

oracle("peft")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedModel  # noqa: E402
from transformers.utils import logging  # noqa: E402

import loratools  # noqa: E402
from loratools import Combination, RankRule, Rescaling  # noqa: E402
from loratools.errors import UnsupportedError  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
ADAPTERS = sorted(path.name for path in (FIXTURES / "adapters").iterdir())
GROWN = ("embedding-vocab", "embedding-lora-resized")
DORA = ("dora", "gpt2-conv1d-dora")
WHOLE = ("embedding-vocab", "gpt2-bias-all", "gpt2-lora-bias-all", "trainable-tokens")
RANK = 3


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def base_of(name: str) -> PreTrainedModel:
    """The base of an adapter, with the vocabulary that it was trained with."""
    source = json.loads((FIXTURES / "adapters" / name / "SOURCE.json").read_text())
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(FIXTURES / source["base"])
    if name in GROWN:
        model.resize_token_embeddings(520)
    model.eval()
    return model


def under(name: str, folder: Path) -> PeftModel:
    """The base, in float64, under an adapter."""
    model: PeftModel = PeftModel.from_pretrained(base_of(name).double(), folder)
    model.eval()
    return model


def reloaded(name: str, folder: Path) -> PeftModel:
    """The same; PEFT finds no key missing, and none that it does not know."""
    return checked(under(name, folder), folder)


def checked(model: PeftModel, folder: Path) -> PeftModel:
    result = model.load_adapter(folder, adapter_name="default")  # again, as only this tells
    assert result.missing_keys == []
    assert result.unexpected_keys == []
    return model


def deltas(model: PeftModel) -> dict[str, Tensor]:
    """The updates, in float64, each with the shape of its weight as the base has it."""
    layers: dict[str, Any] = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)
    }
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").detach()
        for name, layer in layers.items()
    }


@torch.no_grad()
def logits(model: PeftModel) -> Tensor:
    """Of every token, so that every row of an embedding counts."""
    vocabulary: int = model.config.vocab_size
    result: Tensor = model(torch.arange(vocabulary).reshape(8, -1)).logits
    return result


@cache
def original(name: str) -> tuple[Mapping[str, Tensor], Tensor]:
    # Of the keys that PEFT wrote itself, it does not know some copies of embeddings.
    model = under(name, FIXTURES / "adapters" / name)
    return deltas(model), logits(model)


WRAPPED = {
    "before": ("base_model.model.", "_orig_mod.base_model.model."),
    "after": ("base_model.model.", "base_model.model._orig_mod."),
    "inside": ("layers.1.", "layers.1._checkpoint_wrapped_module."),
    "around PEFT": ("base_model.model.", "module.base_model.model._fsdp_wrapped_module."),
    "around the model": ("base_model.model.", "base_model.model.module."),
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("name", ["plain", "embedding-vocab"])
def test_adapter_saved_through_wrappers_is_written_without_them(
    tmp_path: Path, name: str, wrapped: tuple[str, str]
) -> None:
    folder = tmp_path / "wrapped"
    shutil.copytree(FIXTURES / "adapters" / name, folder)
    weights = folder / "adapter_model.safetensors"
    save_file({k.replace(*wrapped): t for k, t in load_file(weights).items()}, weights)
    halved(folder, tmp_path / "out")
    found = deltas(reloaded(name, tmp_path / "out"))
    expected = {name: delta / 2 for name, delta in original(name)[0].items()}
    torch.testing.assert_close(found, expected)


def halved(folder: Path, output: Path) -> None:
    rescaling = Rescaling(strength=0.5, keep_replaced=True)
    loratools.rescale(folder, output=output, rescaling=rescaling)


def stored_otherwise(folder: Path, output: Path) -> None:
    rescaling = Rescaling(fold=True, balance=True)
    loratools.rescale(folder, output=output, rescaling=rescaling)


def resized(folder: Path, output: Path) -> None:
    loratools.resize(folder, output=output, rule=RankRule(rank=RANK))


def widened(folder: Path, output: Path) -> None:
    loratools.resize(folder, output=output, rule=RankRule(rank=20))


def combined(folder: Path, output: Path) -> None:
    loratools.combine([folder, folder], weights=[0.25, 0.75], output=output)


def combined_at_a_rank(folder: Path, output: Path) -> None:
    loratools.combine([folder, folder], weights=[2, -1], rule=RankRule(rank=RANK), output=output)


def half(delta: Tensor) -> Tensor:
    return delta / 2


def same(delta: Tensor) -> Tensor:
    return delta


def leading(delta: Tensor) -> Tensor:
    """By the SVD of the whole matrix, which loratools never forms."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    result: Tensor = (left[:, :RANK] * values[:RANK]) @ right[:RANK]
    return result


Verb = Callable[[Path, Path], None]
#: Each with what it makes of an update.
VERBS: Mapping[Verb, Callable[[Tensor], Tensor]] = {
    halved: half,
    stored_otherwise: same,
    resized: leading,
    widened: same,
    combined: same,
    combined_at_a_rank: leading,
}
REFUSED = {(verb, name) for name in DORA for verb in (halved, combined, combined_at_a_rank)}
CASES = [(verb, name) for verb in VERBS for name in ADAPTERS]


def name_of(value: Verb | str) -> str:
    return value if isinstance(value, str) else value.__name__


@pytest.mark.parametrize(
    ("verb", "name"), [case for case in CASES if case not in REFUSED], ids=name_of
)
def test_peft_reads_what_was_meant(verb: Verb, name: str, tmp_path: Path) -> None:
    """Each factor is rounded to float32 once, so that of rank r is off by 2√r · 2^-24 of its norm.

    Where no update changed, the model computes what it did: what is not a factor has come along.
    """
    output = tmp_path / "adapter"
    verb(FIXTURES / "adapters" / name, output)
    model = reloaded(name, output)
    before, computed = original(name)
    found = deltas(model)
    assert found.keys() == before.keys()
    for target, delta in before.items():
        expected = VERBS[verb](delta)
        allowed = 2 * 20**0.5 * 2.0**-24 * float(expected.norm())
        assert float((found[target] - expected).norm()) <= allowed, target
    if VERBS[verb] is same:
        # Of the 172 terms of a sum, in 7 weights a layer and 5 layers, each is up to 2^-24 off,
        # one by one; and there are 300,000 logits.
        allowed = 4 * (172 * 7 * 5) ** 0.5 * 2.0**-24 * float(computed.abs().max())
        assert float((logits(model) - computed).abs().max()) <= allowed


@pytest.mark.parametrize(("verb", "name"), sorted(REFUSED, key=str), ids=name_of)
def test_dora_is_refused_by_name(verb: Verb, name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=rf"{name}: .*weight: DoRA depends on the weight"):
        verb(FIXTURES / "adapters" / name, tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WHOLE)
def test_whole_tensors_are_refused_where_all_strengths_change(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / "adapters" / name
    with pytest.raises(UnsupportedError, match=rf"{name}: .*takes? the place.*keep_replaced=True"):
        loratools.rescale(folder, output=tmp_path / "x", rescaling=Rescaling(strength=0.5))
    assert list(tmp_path.iterdir()) == []


def test_different_adapters_are_one_in_peft(tmp_path: Path) -> None:
    """Ranks and targets differ, and one has a head of its own."""
    names = ("combine-r4", "rslora-patterns", "embedding-vocab")
    loratools.combine(
        [FIXTURES / "adapters" / name for name in names],
        weights=[0.5, -1, 2],
        combination=Combination(replaced="first"),
        output=tmp_path / "adapter",
    )
    found = deltas(reloaded("embedding-vocab", tmp_path / "adapter"))
    expected: dict[str, Tensor] = {}
    size: dict[str, float] = {}
    for name, weight in zip(names, (0.5, -1, 2), strict=True):
        for target, delta in original(name)[0].items():
            expected[target] = expected.get(target, torch.zeros(())) + weight * delta
            size[target] = size.get(target, 0.0) + abs(weight) * float(delta.norm())
    assert found.keys() == expected.keys()
    for target, delta in expected.items():
        assert float((found[target] - delta).norm()) <= 20**0.5 * 2.0**-23 * size[target]


@pytest.mark.parametrize("is_first", [True, False], ids=["whole first", "whole last"])
def test_adapters_that_spell_one_model_in_two_ways_are_one_in_peft(
    tmp_path: Path, is_first: bool
) -> None:
    """One is trained on the whole model, the other on the model inside of it, without a head."""
    torch.manual_seed(0)
    settings = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    inner = get_peft_model(base_of("plain").model, settings)
    inner.save_pretrained(str(tmp_path / "inner"))
    whole, inside = FIXTURES / "adapters" / "plain", tmp_path / "inner"
    folders = [whole, inside] if is_first else [inside, whole]
    loratools.combine(folders, output=tmp_path / "both")
    base = base_of("plain").double()
    model = PeftModel.from_pretrained(base if is_first else base.model, tmp_path / "both")
    found = deltas(checked(model, tmp_path / "both"))
    parts = [
        {name.removeprefix("model."): delta for name, delta in part.items()}
        for part in (original("plain")[0], deltas(inner.double()))
    ]
    assert found.keys() == {f"model.{name}" if is_first else name for name in parts[0]}
    for target, delta in found.items():
        added = [part[name] for part in parts if (name := target.removeprefix("model.")) in part]
        size = sum(float(each.norm()) for each in added)
        assert float((delta - sum(added)).norm()) <= 10**0.5 * 2.0**-23 * size, target
