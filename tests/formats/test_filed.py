"""Adapters without what their dialect filed: what is canonical is enough to write them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools.adapter import Adapter
from loratools.errors import UnsupportedError
from loratools.formats import Dialect, can_write, decode, dialects, encode
from loratools.parts import Update
from tests.adapters import assert_same, effects
from tests.formats.bundles import decoded, lora
from tests.narrowing import present

FIXTURES = Path(__file__).parents[2] / "fixtures"


def stored_in(dialect: Dialect) -> list[Path]:
    """The fixtures of a dialect, by the name of its weights or of its folder of single files."""
    if dialect.weights is None:
        return sorted(FIXTURES.glob(f"{dialect.name}/*/*.safetensors"))
    return sorted(path.parent for path in FIXTURES.glob(f"*/*/{dialect.weights}"))


STORED = [path for dialect in dialects() for path in stored_in(dialect)]
each_stored = pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)


def stored(path: Path) -> Adapter:
    return loratools.open_adapter(path, allow_pickle=True)


@each_stored
def test_adapter_is_written_from_what_is_canonical_alone(path: Path) -> None:
    adapter = stored(path)
    dialect = present(adapter.filed).dialect
    bundle = encode(replace(adapter, filed=None), dialect)
    again = decode(bundle)
    assert present(again.filed).dialect == dialect
    assert_same(adapter, again)
    assert again.announced == replace(adapter.announced, file=None)  # it is in no file
    if bundle.config is not None:
        origin = adapter.provenance
        assert again.provenance == replace(origin, trainer=None)


@pytest.mark.parametrize(
    "fields",
    [
        {"bias": "lora_only"},
        {"ensure_weight_tying": True},
        {"fan_in_fan_out": True},
        {"task_type": "SEQ_CLS", "modules_to_save": ["head"]},
        {"base_model_name_or_path": "ann/base", "revision": "0123abc"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_peft_has_a_field_for_is_said_without_the_config_that_said_it(fields: Any) -> None:
    adapter = decoded(lora("q", rows=3), target_modules=["q"], **fields)
    again = decode(encode(replace(adapter, filed=None), "peft"))
    assert_same(adapter, again)
    assert (again.announced, again.provenance) == (adapter.announced, adapter.provenance)


@each_stored
def test_another_dialect_has_a_place_for_all_of_it_or_refuses_it_by_name(path: Path) -> None:
    adapter = stored(path)
    for other in dialects():
        if other.name == present(adapter.filed).dialect or not can_write(other):
            continue
        try:
            bundle = encode(adapter, other.name)
        except UnsupportedError as error:
            targets = (*adapter.updates, *adapter.replaced, *adapter.rows)
            named = [
                f"{adapter.where}: {target}{end}" for target in targets for end in (": ", ", ")
            ]
            assert any(start in str(error) for start in named)  # noqa: PT017
            continue
        again = decode(bundle)
        assert present(again.filed).dialect == other.name
        assert present(again.filed).metadata.keys() <= {"format"}
        for target, update in adapter.updates.items():
            assert type(again.updates[target].delta) is type(update.delta)
            allowed = folding_error(update, again.updates[target])
            difference = effects(again)[target] - effects(adapter)[target]
            assert (difference.abs() <= allowed).all()


def folding_error(update: Update, written: Update) -> torch.Tensor:
    """The most that entries of an update change where its scaling went into a rounded factor."""
    old, new = present(update.delta.low_rank), present(written.delta.low_rank)
    if old.scaling.value == new.scaling.value:
        return torch.zeros(1)
    # Half a unit in the last place of each number of the factor; the rest is in float64.
    half = torch.finfo(old.up.read().dtype).eps / 2 * (1 + 2**-20)
    size = abs(old.scaling.value) * (old.up.read().double().abs() @ old.down.read().double().abs())
    return half * size


def test_names_that_both_dialects_can_spell_go_there_and_back() -> None:
    """An alpha of a config becomes a tensor, and one of its own ranks becomes a pattern."""
    adapter = decoded(lora("q") | lora("v", rank=3), lora_alpha=8, rank_pattern={"v": 3})
    single = decode(encode(adapter, "kohya"))
    assert single.where == adapter.where
    assert [update.delta.kind for update in single.updates.values()] == ["LoRA", "LoRA"]
    back = decode(encode(single, "peft"))
    for one in (single, back):
        assert list(effects(one)) == list(effects(adapter))
        for target, effect in effects(adapter).items():
            torch.testing.assert_close(effects(one)[target], effect, rtol=0, atol=0)
