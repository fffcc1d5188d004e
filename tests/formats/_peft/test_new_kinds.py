"""A kind that is new to PEFT's dialect is its change and its codec: nothing else is edited."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.describing.description import inspect_adapter
from loratools.errors import FormatError, UnsupportedError
from loratools.formats import Sureness, decode, encode
from loratools.formats._peft import kinds
from loratools.formats._peft.peft_type import OPTIONAL_FIELDS
from loratools.formats.peft.read import claim
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from loratools.parts import ReplacedRows, Replacement
from loratools.reshaping.rescaled import Rescaling, rescaled
from tests.deltas.toys import TOYS, assert_does
from tests.formats.bundles import PREFIX, bundle, config, lora, notes
from tests.narrowing import present
from tests.reshaping.adapters import adapter as canonical

HADA = {"toy_w1_a": (4, 2), "toy_w2_a": (4, 2), "toy_w1_b": (2, 3), "toy_w2_b": (2, 3)}
GATED = {"lora_A.weight": (2, 3), "lora_B.weight": (4, 2), "lora_gate": (4,)}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys lie in the folder of the codecs."""
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(Path(__file__).parent / "toys")])


def stored(parts: Mapping[str, tuple[int, ...]], modules: str = "q", **fields: Any) -> Bundle:
    shapes = {f"{PREFIX}{m}.{part}": shape for m in modules for part, shape in parts.items()}
    return bundle(shapes, fields)


def toy(parts: Mapping[str, tuple[int, ...]] = HADA, modules: str = "q", **fields: Any) -> Bundle:
    return stored(parts, modules, **{"peft_type": "TOY", "r": 2, "alpha": 3, **fields})


def delta(adapter: Adapter, target: str = "q.weight") -> Delta:
    return adapter.updates[target].delta


def assert_same_tensors(one: Bundle, other: Bundle) -> None:
    assert list(one.tensors) == list(other.tensors)
    for key, source in one.tensors.items():
        assert torch.equal(source.read(), other.tensors[key].read())


def test_kind_of_another_type_is_read_and_written_as_it_was() -> None:
    files = toy(modules="qk", alpha_pattern={"k": 5}, target_modules=["q", "k"], of_its_own=7)
    adapter = decode(files)
    assert adapter.kinds == ("products",)
    assert adapter.notes == ()
    scalings = [update.delta.scaling for update in adapter.updates.values()]
    assert [scaling.value for scaling in scalings if scaling] == [3 / 2, 5 / 2]
    again = encode(adapter)
    assert_same_tensors(files, again)
    assert again.config == {**(again.config or {}), **(files.config or {})}
    assert "lora_alpha" not in (again.config or {})


def test_its_strength_goes_into_the_field_of_its_alpha() -> None:
    files = toy()
    halved = encode(rescaled(decode(files), Rescaling(strength=0.5)).adapter)
    assert present(halved.config)["alpha"] == 1.5
    assert_same_tensors(files, halved)


def test_ranks_that_differ_become_patterns() -> None:
    other = {part: tuple(3 if n == 2 else n for n in shape) for part, shape in HADA.items()}
    one, two = (decode(toy(*each)) for each in ((HADA, "q"), (other, "k")))
    assert notes(two, "refusal")
    two = decode(toy(other, "k", r=3))
    wide = replace(two, updates={f"k{n}.weight": u for n in "12" for u in two.updates.values()})
    files = encode(replace(one, updates={**one.updates, **wide.updates}))
    assert present(files.config)["rank_pattern"]
    assert notes(decode(files), "refusal") == []


@pytest.mark.parametrize("part", HADA)
def test_part_of_one_that_is_missing_is_named(part: str) -> None:
    with pytest.raises(FormatError, match=rf"here: q has toy_w.* and no {part}: half an update"):
        decode(toy({other: shape for other, shape in HADA.items() if other != part}))


def test_part_of_another_type_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"q\.lora_A\.weight: not a part of toy"):
        decode(toy({**HADA, "lora_A.weight": (2, 3)}))
    with pytest.raises(UnsupportedError, match="neither a weight nor a bias"):
        decode(bundle({**lora("q"), f"{PREFIX}q.toy_w1_a": (4, 2)}, config()))


@pytest.mark.parametrize("biased", [False, True])
def test_kind_around_a_lora_is_read_and_written_as_it_was(biased: bool) -> None:
    parts = {**GATED, "lora_B.bias": (4,)} if biased else GATED
    files = stored(parts, **config(use_gate=True, lora_bias=biased))
    adapter = decode(files)
    assert notes(adapter, "problem") == notes(adapter, "refusal") == []
    assert adapter.kinds == (("gated", "diff") if biased else ("gated",))
    again = encode(adapter)
    assert_same_tensors(files, again)
    assert again.config == {**(again.config or {}), **config(use_gate=True, lora_bias=biased)}
    assert again.config == {**(again.config or {}), "use_dora": False}


def test_its_part_is_announced_by_its_field() -> None:
    (problem,) = notes(decode(stored(GATED, **config())), "problem")
    assert problem.startswith("use_gate is not set, and lora_gate is stored: q")
    (refusal,) = notes(decode(bundle(lora("q"), config(use_gate=True))), "refusal")
    assert "no lora_gate: q; what was trained there is lost, and PEFT takes ones for it" in refusal
    (odd,) = notes(decode(stored(GATED, **config(use_gate="false"))), "info")
    assert odd.startswith("use_gate is 'false', which PEFT takes for true")
    plain = encode(decode(bundle(lora("q"), config())))
    assert plain.config == {**(plain.config or {}), "use_gate": False}


def test_parts_of_two_kinds_around_one_lora_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="which are parts of two updates"):
        decode(stored({**GATED, "lora_magnitude_vector": (4,)}, **config()))
    adapter = decode(bundle({**lora("q"), **lora("k"), f"{PREFIX}k.lora_gate": (4,)}, config()))
    with pytest.raises(UnsupportedError, match=r"one kind of update in an adapter, .* LoRA, gated"):
        encode(adapter)


def test_kind_without_a_rank_and_an_alpha_has_none_in_its_config() -> None:
    files = stored({"stretch_l": (4,)}, peft_type="STRETCH", target_modules=["q"])
    again = encode(decode(files))
    assert_same_tensors(files, again)
    fields = present(again.config)
    assert fields["stretched_modules"] == ["q"]
    assert not {"r", "alpha", "lora_alpha", "rank_pattern", "bias", "use_dora"} & {*fields}


def test_tensor_of_the_whole_model_is_read_and_written_once() -> None:
    files = stored({"shared_up": (4, 2)}, "qk", peft_type="SHARED")
    shared = Held("base_model.shared_down", torch.randn(2, 3), "F32")
    files = replace(files, tensors={**files.tensors, shared.key: shared})
    adapter = decode(files)
    assert [note.message for note in adapter.notes] == []
    assert adapter.updates["k.weight"].delta.sources[0] is shared
    assert_same_tensors(files, encode(adapter))


@pytest.mark.parametrize("name", ["products", "gated", "stretched"])
def test_change_without_a_file_is_written_by_the_codec_that_takes_it(name: str) -> None:
    """Its type is found by its kind."""
    written = canonical({"a.weight": TOYS[name]}, where="toy")
    read = decode(encode(written, "peft"))
    assert_does(delta(read, "a.weight"), TOYS[name], near=0)


def test_lora_without_a_file_is_of_the_usual_type() -> None:
    """Though another type, which comes first in the folder, could store it."""
    written = encode(canonical({"a.weight": present(TOYS["gated"].low_rank)}), "peft")
    assert present(written.config)["peft_type"] == "LORA"


def test_field_that_a_type_does_not_have_is_not_written() -> None:
    adapter = decode(stored({"stretch_l": (4,)}, peft_type="STRETCH", target_modules=["q"]))
    (update,) = adapter.updates.values()
    moved = {"k.weight": replace(update, fan_in_fan_out=True)}
    for changed in (replace(adapter, updates=moved), replace(adapter, updates=moved, filed=None)):
        fields = present(encode(changed, "peft").config)
        assert fields["target_modules"] == ["k"]
        assert not {*OPTIONAL_FIELDS} & {*fields}


def test_what_only_such_a_field_could_say_is_refused() -> None:
    adapter = decode(stored({"stretch_l": (4,)}, peft_type="STRETCH", target_modules=["q"]))
    row, bias = Held("row", torch.randn(1, 4), "F32"), Held("bias", torch.randn(4), "F32")
    rows = replace(adapter, rows={"tok.weight": ReplacedRows((0,), row)})
    with pytest.raises(UnsupportedError, match=r"tok\.weight: PEFT has no place for rows of"):
        encode(rows)
    trained = replace(adapter, replaced={"k.bias": Replacement(bias, is_trained=True)})
    with pytest.raises(UnsupportedError, match=r"k\.bias: PEFT has no place for a trained bias"):
        encode(trained)


def test_adapter_that_became_another_type_has_no_fields_of_the_first() -> None:
    """Its factors are written as a LoRA: `r` and `alpha` of the toy meant something else."""
    first = decode(toy(r=2, alpha=3, alpha_pattern={"q": 9}, target_modules=["q"]))
    other = replace(first.updates["q.weight"], delta=present(TOYS["gated"].low_rank))
    fields = present(encode(replace(first, updates={"q.weight": other})).config)
    assert (fields["peft_type"], fields["r"], fields["lora_alpha"]) == ("LORA", 2, 1)
    assert "alpha" not in fields
    assert fields["alpha_pattern"] == {}


def test_without_its_codec_it_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(UnsupportedError, match=r"peft_type 'TOY' is not supported yet \(.*LORA"):
        decode(toy())
    with pytest.raises(UnsupportedError, match="lora_gate: not a part of LoRA that is known here"):
        decode(stored(GATED, **config()))


def test_its_keys_are_known_without_the_prefix() -> None:
    files = toy()
    tensors = {key.removeprefix(PREFIX): source for key, source in files.tensors.items()}
    assert claim(replace(files, tensors=tensors)) is Sureness.CONFIG


def test_inspect_shows_its_scaling_and_its_rank() -> None:
    (group,) = inspect_adapter(decode(toy())).groups
    assert (group.rank, group.alpha, group.scaling, group.rule) == (2, 3, 3 / 2, "rank")
