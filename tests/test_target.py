"""An opened adapter is a mapping of targets, whose numbers are those of the formula."""

import copy
import math
import operator
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import loratools
from loratools import (
    Adapter,
    ArgumentError,
    MatchError,
    NonFiniteError,
    OptionError,
    OutputError,
    ShapeMismatchError,
    Target,
    TargetError,
    UnsupportedError,
)
from loratools.other_words import OF_A_TARGET, OF_AN_ADAPTER
from tests.hostile.checkpoints import lora, write_adapter

Q = "model.layers.0.self_attn.q_proj"
NAMES = sorted(path.name for path in (Path(__file__).parents[1] / "fixtures/adapters").iterdir())


@pytest.fixture
def adapter(fixtures: Path) -> Adapter:
    return loratools.open_adapter(fixtures / "adapters" / "plain")


@pytest.mark.parametrize("name", NAMES)
def test_a_mapping_has_every_target_of_an_adapter(fixtures: Path, name: str) -> None:
    opened = loratools.open_adapter(fixtures / "adapters" / name)
    parts = (opened.updates, opened.replaced, opened.rows)
    assert set(opened) == {target for part in parts for target in part}
    assert len(opened) == len(list(opened)) == len(opened.items())
    assert [target.name for target in opened.values()] == list(opened)
    assert sum(target.parameters for target in opened.values()) > 0


@pytest.mark.parametrize(
    "name", [f"{Q}.weight", Q, "layers.0.self_attn.q_proj", "…0.self_attn.q_proj"]
)
def test_a_target_is_found_by_its_name_its_module_or_the_end_of_either(
    adapter: Adapter, name: str
) -> None:
    assert adapter[name].name == f"{Q}.weight"
    assert name in adapter


def test_a_weight_may_be_an_array_of_numpy(fixtures: Path) -> None:
    target = next(iter(loratools.open_adapter(fixtures / "adapters" / "dora").values()))
    weight = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(target.update(weight=weight), target.update(weight=weight.numpy()))
    assert target.norm(weight=weight) == target.norm(weight=weight.numpy())
    with pytest.raises(UnsupportedError, match="weight: an array of <U1, which torch"):
        target.update(weight=np.full(target.shape, "x"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("q_proj", r"'q_proj' could be model.layers.0.self_attn.q_proj.weight, "),
        ("layers.0.q_proj", r"did you mean model\.layers\.0\.self_attn\.q_proj\.weight\?$"),
        ("model.layers.0.self_attn.q_prj", "did you mean model.layers.0.self_attn.q_proj.weight"),
        ("roj", "no target 'roj'"),
        ("", "no target ''"),
    ],
)
def test_a_name_of_no_target_or_of_several_is_refused(
    adapter: Adapter, name: str, message: str
) -> None:
    with pytest.raises(MatchError, match=message):
        adapter[name]
    with pytest.raises(KeyError):
        adapter[name]
    assert name not in adapter
    assert adapter.get(name) is None


def test_a_name_like_no_other_is_answered_by_where_names_are(adapter: Adapter) -> None:
    with pytest.raises(
        TargetError, match=r"has no target 'zz'; list\(adapter\) has the names, such"
    ):
        adapter["zz"]


def test_a_number_in_place_of_a_name_is_answered_by_how_names_look(adapter: Adapter) -> None:
    with pytest.raises(TargetError, match=r"0 is no name .* such as 'model\.layers\.0\.mlp\.down"):
        adapter[0]  # type: ignore[index]


def test_an_adapter_equals_itself_alone_and_can_be_a_key(adapter: Adapter) -> None:
    factors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)}
    made = loratools.adapter_from_tensors(factors)
    again = loratools.adapter_from_tensors(factors)
    weights = {adapter: 0.7, made: 0.3}
    assert weights[made] == 0.3
    assert again not in weights


def test_a_target_equals_itself_however_often_it_is_asked_for(adapter: Adapter) -> None:
    assert adapter[Q] == adapter[f"{Q}.weight"]
    assert adapter[Q] in adapter.values()
    assert len({adapter[Q], *adapter.values()}) == len(adapter)
    assert adapter[Q] != loratools.open_adapter(adapter.where)[Q]


def test_the_parts_of_an_adapter_cannot_be_changed(adapter: Adapter) -> None:
    parts: Any = adapter.updates
    first = next(iter(parts))
    changes: list[Callable[[], object]] = [
        lambda: parts.update({first: None}),
        lambda: parts.pop(first),
        lambda: parts.setdefault("x", None),
        lambda: operator.setitem(parts, first, None),
        lambda: operator.delitem(parts, first),
        lambda: parts.__ior__({"x": None}),
        parts.clear,
        parts.popitem,
    ]
    for change in changes:
        with pytest.raises(TypeError, match=r"cannot be changed; verbs such as loratools\.rescale"):
            change()
    assert len(adapter) == len(adapter.updates) == 35
    for again in (pickle.loads(pickle.dumps(adapter)), copy.deepcopy(adapter)):
        assert list(again.updates) == list(adapter.updates)
        assert torch.equal(again[Q].update(), adapter[Q].update())


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("targets", "did you mean list(adapter)?"),
        ("path", "did you mean where?"),
        ("rank", "a target has it: adapter[name].rank"),
        ("lora_A", "a target has it: adapter[name].down"),
        ("merge_and_unload", "did you mean loratools.merge?"),
        ("scale", "a target has it: adapter[name].scaling"),
        ("resize", "did you mean loratools.resize?"),
    ],
)
def test_another_librarys_word_for_an_attribute_is_answered_by_ours(
    adapter: Adapter, word: str, answer: str
) -> None:
    with pytest.raises(AttributeError, match=rf"^'Adapter' .* '{word}'; {re.escape(answer)}$"):
        getattr(adapter, word)
    with pytest.raises(
        AttributeError, match=r"'Target' .* 'delta_weight'; did you mean update\(\)\?"
    ):
        getattr(adapter[Q], "delta_weight")  # noqa: B009  (which type checkers know not to be there)


def test_an_attribute_that_is_advised_is_there_and_the_other_is_not(adapter: Adapter) -> None:
    for told, others in ((adapter, OF_AN_ADAPTER), (adapter[Q], OF_A_TARGET)):
        for ours, words in others.items():
            assert "(adapter)" in ours or hasattr(told, ours.removesuffix("()")), ours
            assert not [word for word in words if hasattr(told, word)]
    assert not hasattr(adapter, "_rank")


def test_arithmetic_of_adapters_is_answered_by_the_verbs(adapter: Adapter) -> None:
    one: Any = adapter
    sums: list[Callable[[], object]] = [
        lambda: one + one,
        lambda: sum([one, one]),
        lambda: 0.5 * one,
        lambda: one * torch.tensor(0.5),
        lambda: one - one,
        lambda: -one,
        lambda: one / 2,
    ]
    for compute in sums:
        with pytest.raises(ArgumentError, match=r"no arithmetic; loratools\.combine\(.*rescale\("):
            compute()


def test_a_target_where_a_tensor_belongs_is_answered_by_its_update(adapter: Adapter) -> None:
    query: Any = adapter[Q]
    uses: list[Callable[[], object]] = [
        lambda: query[:2],
        lambda: np.asarray(query),
        lambda: np.linalg.norm(query),
        lambda: 0.5 * query,
        lambda: query + query,
        lambda: query @ torch.ones(64),
        lambda: torch.ones(64) @ query,
    ]
    for use in uses:
        with pytest.raises(ArgumentError, match=r"is no tensor; update\(\) is its ΔW as one"):
            use()


def test_a_class_answers_an_attribute_that_it_lacks_by_what_makes_its_objects() -> None:
    kinds: dict[Any, str] = {Adapter: "open_adapter reads one", Target: "an item of an adapter"}
    for kind, made in kinds.items():
        with pytest.raises(AttributeError, match=f"'{kind.__name__}' has no .*pretrained'; {made}"):
            _ = kind.from_pretrained
        assert not hasattr(kind, "_from_pretrained")


def test_a_misspelt_attribute_is_answered_by_the_nearest(adapter: Adapter) -> None:
    for told, word, near in ((adapter, "itmes", "items"), (adapter[Q], "scalling", "scaling")):
        with pytest.raises(AttributeError, match=rf"'{word}'; did you mean {near}\?$"):
            getattr(told, word)


def test_notebooks_complete_the_names_of_targets(adapter: Adapter) -> None:
    assert adapter._ipython_key_completions_() == list(adapter)


def test_a_class_that_is_called_with_a_path_says_what_opens_one() -> None:
    with pytest.raises(ArgumentError, match="open_adapter reads one from files"):
        Adapter("fixtures/adapters/plain")  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match=r"an adapter is one: open_adapter\(path\)\[name\]$"):
        Target("fixtures/adapters/plain")  # type: ignore[call-arg]


def test_an_update_is_the_product_of_the_stored_factors(fixtures: Path, adapter: Adapter) -> None:
    stored = load_file(fixtures / "adapters" / "plain" / "adapter_model.safetensors")
    up, down = (stored[f"base_model.model.{Q}.lora_{x}.weight"] for x in "BA")
    target = adapter[Q]
    assert torch.equal(target.up, up)
    assert torch.equal(target.down, down)
    assert target.scaling is not None
    wanted = target.scaling * (up.double() @ down.double())
    assert torch.allclose(target.update(), wanted, rtol=1e-13, atol=0)
    assert torch.equal(target.update(3, 7), target.update()[3:7])
    values = torch.linalg.svdvals(wanted)[: target.rank]
    assert torch.allclose(target.singular_values(), values, rtol=1e-9)
    assert target.norm() == pytest.approx(wanted.norm().item(), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_what_a_merge_adds(fixtures: Path, tmp_path: Path, name: str) -> None:
    """In float32, for every kind: those that depend on the weight are given it."""
    opened = loratools.open_adapter(fixtures / "adapters" / name)
    base = fixtures / "stories260k"
    try:
        loratools.merge(base, opened, output=tmp_path / "merged", dtype="float32")
    except loratools.LoratoolsError:
        pytest.skip("for another base")
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    seen = 0
    for target in opened.values():
        if target.name not in before or after[target.name].shape != before[target.name].shape:
            continue
        weight = before[target.name]
        update = target.update(weight=weight)
        found = after[target.name].double() - weight.double()
        assert update.shape == weight.shape
        assert torch.allclose(update, found, rtol=0, atol=2.0**-22 * float(weight.abs().max()))
        assert target.norm(weight=weight) == pytest.approx(update.norm().item(), rel=1e-9)
        seen += 1
    assert seen


def test_an_update_that_depends_on_the_weight_asks_for_it(fixtures: Path) -> None:
    target = next(iter(loratools.open_adapter(fixtures / "adapters" / "dora").values()))
    with pytest.raises(UnsupportedError, match="DoRA depends on the weight of the base; give it"):
        target.update()
    with pytest.raises(ShapeMismatchError, match=r"changes a weight \[.*\], not \[3\]"):
        target.update(weight=torch.ones(3))


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (
            torch.ones(64, 64, device="meta"),
            "weight: a tensor on the device meta, which has no val",
        ),
        (torch.ones(64, 64).to_sparse(), r"weight: a sparse tensor; give its to_dense\(\)$"),
        (torch.ones(64, 64, dtype=torch.complex64), "weight: a tensor of complex numbers$"),
    ],
)
def test_a_weight_that_has_no_numbers_is_refused(
    fixtures: Path, weight: torch.Tensor, says: str
) -> None:
    target = loratools.open_adapter(fixtures / "adapters" / "dora")[Q]
    with pytest.raises(UnsupportedError, match=says) as caught:
        target.update(weight=weight)
    assert caught.value.tensor == f"{Q}.weight"


def test_what_a_user_does_to_numbers_is_not_done_to_the_adapter(adapter: Adapter) -> None:
    for kept in (torch.float32, torch.float64):
        factors = {"q.lora_A.weight": torch.ones(2, 4), "q.lora_B.weight": torch.ones(4, 2)}
        held = {key: tensor.to(kept) for key, tensor in factors.items()}
        for target in (loratools.adapter_from_tensors(held)["q"], adapter[Q]):
            before = target.update()
            for numbers in (target.up, target.down, target.update(), target.singular_values()):
                numbers.zero_()
            assert torch.equal(target.update(), before)


def test_an_update_with_a_nan_has_no_singular_values() -> None:
    factors = {"q.lora_A.weight": torch.full((2, 4), math.nan), "q.lora_B.weight": torch.ones(4, 2)}
    target = loratools.adapter_from_tensors(factors)["q"]
    with pytest.raises(NonFiniteError, match=r"^tensors: q\.weight: .* holds a NaN") as caught:
        target.singular_values()
    assert caught.value.tensor == "q.weight"
    assert math.isnan(target.norm())


def test_a_weight_of_another_shape_is_refused_by_every_kind(fixtures: Path) -> None:
    """Also where the update does not depend on the weight, which is then of another model."""
    for name in NAMES:
        for target in loratools.open_adapter(fixtures / "adapters" / name).values():
            with pytest.raises(ShapeMismatchError, match=r"\], not \[3, 3, 3\]"):
                target.update(weight=torch.ones(3, 3, 3))


def test_a_weight_may_be_an_array(fixtures: Path) -> None:
    target = next(iter(loratools.open_adapter(fixtures / "adapters" / "dora").values()))
    weight = torch.randn(target.shape)
    assert torch.equal(target.update(weight=weight.numpy()), target.update(weight=weight))
    assert target.norm(weight=weight.numpy()) > 0
    for call in (target.update, target.norm, target.singular_values):
        with pytest.raises(ArgumentError, match="weight: a tensor or an array is "):
            call(weight="w")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [None, ["a"], 1])
def test_an_adapter_is_saved_to_a_path_alone(adapter: Adapter, path: object) -> None:
    with pytest.raises(ArgumentError, match=r"^Adapter\.save: path: a path is expected, not "):
        adapter.save(path)  # type: ignore[arg-type]


@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (0, 0), (3, 2), (0, 10**9)])
def test_rows_that_a_target_lacks_are_refused(adapter: Adapter, begin: int, end: int) -> None:
    with pytest.raises(OptionError, match=f"rows {begin} to {end} are not some of its 64"):
        adapter[Q].update(begin, end)


def test_a_convolution_has_an_update_of_its_shape() -> None:
    made = loratools.adapter_from_tensors(
        {
            "lora_unet_conv.lora_down.weight": torch.randn(2, 3, 3, 3),
            "lora_unet_conv.lora_up.weight": torch.randn(5, 2, 1, 1),
            "lora_unet_conv.alpha": torch.tensor(1.0),
        }
    )
    (target,) = made.values()
    assert target.update().shape == (5, 3, 3, 3)
    assert target.update(1, 3).shape == (2, 3, 3, 3)
    assert len(target.singular_values()) == 2


def test_reprs_are_short(adapter: Adapter) -> None:
    assert repr(adapter).endswith("LoRA, 35 targets>")
    made = loratools.resize(adapter, rank=2)
    assert repr(made).startswith(f"<Adapter in memory, made of {adapter.where}: LoRA, 35")
    assert repr(adapter[Q]) == f"<{Q}.weight: LoRA, 64 × 64, rank 8, scaling 2>"
    assert repr(adapter.updates).startswith("<35 parts: model.layers.0.mlp.down_proj.weight, ")
    combined = loratools.combine([adapter, made])
    for brief in (adapter.updates, adapter.filed, combined.report.similarity):
        assert len(repr(brief)) < 400


def test_what_an_adapter_is_made_of_is_named_and_not_overwritten(
    fixtures: Path, tmp_path: Path
) -> None:
    """Each of several, through more than one verb: its tensors are still read from there."""
    names = [tmp_path / name for name in ("plain", "combine-r4")]
    for name in names:
        shutil.copytree(fixtures / "adapters" / name.name, name)
    made = loratools.rescale(loratools.combine(names), strength=0.5)
    for name in names:
        assert str(name) in repr(made)
        with pytest.raises(OutputError, match=f"is the input {name}"):
            made.save(name, overwrite=True)


def test_a_name_that_ends_another_is_still_that_of_its_own(tmp_path: Path) -> None:
    tensors = lora("q", (4, 4)) | lora("a.q", (4, 4))
    opened = loratools.open_adapter(write_adapter(tmp_path / "a", tensors, target_modules=["q"]))
    assert opened["q"].name == "q.weight"
    assert opened["a.q"].name == "a.q.weight"
