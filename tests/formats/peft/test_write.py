"""PEFT adapters as they are written: what is read again is what was meant."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.adapter import Adapter
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import Scaling
from loratools.errors import UnsupportedError
from loratools.files.opening import open_adapter
from loratools.files.writing import write_adapter
from loratools.formats import decode, encode
from loratools.parts import Replacement, Update
from loratools.testing import adapters
from tests.adapters import assert_same, effects, lora_of
from tests.formats._peft.parts import held, update
from tests.formats.bundles import PREFIX, decoded, lora
from tests.narrowing import present

FIXTURES = Path(__file__).parents[3] / "fixtures"
STORED = sorted(p.parent for p in FIXTURES.glob("*/*/adapter_model.safetensors"))
#: What this reader of PEFT's files adds to a config that an older PEFT wrote.
ADDED = {"use_rslora": False, "use_dora": False, "lora_bias": False}


def settings(adapter: Adapter) -> dict[str, Any]:
    fields = encode(adapter).config
    assert fields is not None
    return dict(fields)


@pytest.mark.parametrize("folder", STORED, ids=lambda path: path.name)
def test_stored_adapter_is_written_as_it_was(folder: Path, tmp_path: Path) -> None:
    adapter = open_adapter(folder)
    write_adapter(adapter, tmp_path / "copy", inputs=[folder])
    assert_same(adapter, open_adapter(tmp_path / "copy"))
    before = json.loads((folder / "adapter_config.json").read_text())
    after = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    before["trainable_token_indices"] = after.get("trainable_token_indices")
    assert after == {**ADDED, **{k: v for k, v in after.items() if v is None}, **before}


@pytest.mark.parametrize("folder", STORED, ids=lambda path: path.name)
def test_tokenizer_files_go_with_it(folder: Path, tmp_path: Path) -> None:
    adapter = open_adapter(folder)
    write_adapter(adapter, tmp_path / "copy", inputs=[folder])
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert {path.name for path in adapter.companions} <= set(copied)
    for companion in adapter.companions:
        assert copied[companion.name] == (folder / companion.name).read_bytes()


SHAPES = {"a.q.weight": (4, 3), "a.conv.weight": (3, 2, 3), "b.q.weight": (5, 5)}


@given(adapter=adapters(SHAPES))
def test_any_adapter_is_written_so_that_its_updates_are_read_again(adapter: Adapter) -> None:
    """Scalings are divided by a rank and multiplied with it again: two roundings of a float64."""
    doras = [u.delta for u in adapter.updates.values() if isinstance(u.delta, DoRA)]
    if len(doras) not in (0, len(adapter.updates)) or any(d.axis == "column" for d in doras):
        with pytest.raises(UnsupportedError, match=r"one kind of update|for each output"):
            encode(adapter)
        return
    again = decode(encode(adapter))
    assert list(again.updates) == list(adapter.updates)
    for target, effect in effects(adapter).items():
        read = effects(again)[target]
        torch.testing.assert_close(read, effect, rtol=4 * 2**-52, atol=0)
    for target, was in adapter.updates.items():
        now = again.updates[target].delta
        assert now.shape == was.delta.shape
        if isinstance(was.delta, DoRA) and was.delta.axis == "row":
            assert isinstance(now, DoRA)
            assert torch.equal(now.magnitude.read(), was.delta.magnitude.read())


def test_config_that_says_it_already_is_left_as_it_is() -> None:
    fields: dict[str, Any] = {
        "rank_pattern": {"a.*": 2},
        "alpha_pattern": {"q": 4},
        "target_modules": ["q"],
    }
    shapes = {**lora("a.q"), **lora("b.q")}
    written = settings(decoded(shapes, **fields))
    assert {name: written[name] for name in fields} == fields


def test_ranks_and_alphas_that_differ_become_patterns_of_one_module_each() -> None:
    adapter = decoded({**lora("a.q"), **lora("b.q"), **lora("x.a.q")}, target_modules=["q"])
    other = {**adapter.updates, "a.q.weight": update(rank=3, alpha=1)}
    written = settings(replace(adapter, updates=other))
    assert (written["r"], written["lora_alpha"]) == (2, 4)
    assert written["rank_pattern"] == {"^a\\.q": 3}
    assert written["alpha_pattern"] == {"^a\\.q": 1}
    again = decode(encode(replace(adapter, updates=other)))
    assert again.notes == ()
    assert [lora_of(u).rank for u in again.updates.values()] == [3, 2, 2]


def test_module_that_the_config_does_not_target_is_targeted_by_its_full_name() -> None:
    adapter = decoded(lora("a.q"), target_modules=["q"], layers_to_transform=[0])
    more = {**adapter.updates, "a.v.weight": update()}
    written = settings(replace(adapter, updates=more))
    assert written["target_modules"] == ["a.q", "a.v"]
    assert written["layers_to_transform"] is None


@pytest.mark.parametrize(
    "narrowing",
    [
        {"layers_to_transform": [0]},
        {"layers_to_transform": 0, "layers_pattern": "layers"},
        {"layers_to_transform": [0], "layers_pattern": ["blocks", "layers"]},
        {"layers_to_transform": [0], "layers_pattern": "blocks"},
        {"exclude_modules": ["1.q"]},
        {"exclude_modules": r".*\.1\.q"},
    ],
    ids=str,
)
def test_module_that_the_config_leaves_out_is_targeted_by_its_full_name(
    narrowing: dict[str, Any],
) -> None:
    adapter = decoded(lora("m.layers.0.q"), target_modules=["q"], **narrowing)
    more = {**adapter.updates, "m.layers.1.q.weight": update()}
    written = settings(replace(adapter, updates=more))
    assert written["target_modules"] == ["m.layers.0.q", "m.layers.1.q"]
    assert all(written[name] is None for name in narrowing)


@pytest.mark.parametrize(
    "narrowing",
    [
        {"layers_to_transform": [0, 1]},
        {"layers_to_transform": []},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"exclude_modules": ["2.q"]},
        {"exclude_modules": "q"},
    ],
    ids=str,
)
def test_modules_that_the_config_names_stay_as_it_names_them(narrowing: dict[str, Any]) -> None:
    adapter = decoded(lora("m.layers.0.q"), target_modules=["q"], **narrowing)
    more = {**adapter.updates, "m.layers.1.q.weight": update()}
    written = settings(replace(adapter, updates=more))
    assert written["target_modules"] == ["q"]
    assert {name: written[name] for name in narrowing} == narrowing


@pytest.mark.parametrize("whole", ["head", "model.head", "model"])
def test_lora_on_a_module_that_is_saved_whole_is_refused(whole: str) -> None:
    """PEFT would load the result without the LoRA."""
    adapter = decoded(lora("model.head"))
    replaced = {f"{whole}.weight": Replacement(held(4, 3), is_trained=True)}
    with pytest.raises(UnsupportedError, match=r"model\.head: PEFT saves '[a-z.]*' whole"):
        encode(replace(adapter, replaced=replaced))


def test_bias_of_a_module_with_a_lora_may_be_trained() -> None:
    adapter = decoded(lora("model.head"))
    replaced = {"model.head.bias": Replacement(held(4), is_trained=True)}
    written = settings(replace(adapter, replaced=replaced))
    assert (written["bias"], written["modules_to_save"]) == ("all", None)


def test_scaling_rule_is_the_stabilised_one_only_where_all_have_it() -> None:
    adapter = decoded(lora("a.q"), use_rslora=True)
    assert settings(adapter)["use_rslora"] is True
    mixed = replace(adapter, updates={**adapter.updates, "b.q.weight": update()})
    assert settings(mixed)["use_rslora"] is False
    for target, effect in effects(mixed).items():
        again = effects(decode(encode(mixed)))[target]
        torch.testing.assert_close(again, effect, rtol=4 * 2**-52, atol=0)


def test_adapter_without_a_config_gets_a_whole_one() -> None:
    adapter = replace(decoded(lora("a.q")), filed=None, updates={"a.q.weight": update()})
    written = present(encode(adapter, "peft").config)
    assert written["peft_type"] == "LORA"
    assert written["target_modules"] == ["a.q"]
    assert (written["r"], written["lora_alpha"], written["bias"]) == (2, 4, "none")


def test_update_of_a_vector_alone_is_refused_by_name() -> None:
    bias = Diff(held(4), Scaling(4, 2, "rank", "config"))
    adapter = replace(decoded(lora("a.q")), updates={"norm.weight": Update(bias)})
    with pytest.raises(UnsupportedError, match=r"norm\.weight.*no place for a diff"):
        encode(adapter)


def test_projections_of_an_attention_have_one_rank() -> None:
    shapes = {**lora("attn"), **lora("attn.base_layer.out_proj", rows=3)}
    adapter = decoded(shapes, peft_version="0.21.2")
    assert_same(adapter, decode(encode(adapter)))
    changed = {**adapter.updates, "attn.in_proj_weight": update(rank=3)}
    with pytest.raises(UnsupportedError, match="one rank and one alpha"):
        encode(replace(adapter, updates=changed))


def test_update_of_an_out_proj_counts_as_often_as_peft_applies_it() -> None:
    """PEFT multiplies it with 2, so half of the alpha is stored."""
    shapes = {**lora("attn"), **lora("attn.base_layer.out_proj")}
    adapter = decoded(shapes, peft_version="0.21.2")
    in_proj, out_proj = adapter.updates
    once = {in_proj: update(alpha=2), out_proj: update(alpha=4)}
    again = decode(encode(replace(adapter, updates=once)))
    for target, effect in effects(replace(adapter, updates=once)).items():
        torch.testing.assert_close(effects(again)[target], effect, rtol=0, atol=0)


def test_whole_tensors_are_named_in_the_config() -> None:
    adapter = decoded(lora("a.q"), target_modules=["q"])
    extra = decoded({**lora("a.q"), f"{PREFIX}head.weight": (2, 3)}, modules_to_save=["head"])
    written = settings(replace(adapter, replaced=extra.replaced))
    assert written["modules_to_save"] == ["head"]


@pytest.mark.parametrize(
    ("names", "task", "saved"),
    [
        (["classifier.bias", "classifier.weight"], "SEQ_CLS", ["classifier"]),
        (["pre_classifier.bias", "classifier.weight"], "SEQ_CLS", ["classifier"]),
        (["classifier.dense.bias", "classifier.out_proj.weight"], "SEQ_CLS", ["classifier"]),
        (["qa_outputs.bias", "qa_outputs.weight"], None, ["qa_outputs"]),
    ],
    ids=str,
)
def test_heads_that_no_list_named_are_listed_as_modules(
    names: list[str], task: str | None, saved: list[str]
) -> None:
    """A bias is part of its module, also where it comes first, as it does in a sorted file."""
    shapes = {f"{PREFIX}{name}": (5,) if name.endswith("bias") else (5, 3) for name in names}
    written = settings(decoded({**lora("a.q"), **shapes}, task_type=task))
    assert (written["modules_to_save"], written["bias"]) == (saved, "none")


@given(names=st.permutations(["a.q", "b.q", "c.q"]))
def test_keys_keep_the_order_of_the_updates(names: list[str]) -> None:
    adapter = decoded({key: shape for name in names for key, shape in lora(name).items()})
    written = [key.removeprefix(PREFIX).split(".lora")[0] for key in encode(adapter).tensors]
    assert list(dict.fromkeys(written)) == names
