"""Adapters of other bases are named, and those of the same one are not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.adapter import Provenance
from loratools.operations.bases import different_bases
from tests.files import eighths, pair, write_adapter, write_base
from tests.operations.adapters import adapter, lora

Q = pair("layers.0.q", 4, 3)


def notes(folder: Path, base: str, **config: Any) -> list[str]:
    """Of a merge into a folder, of an adapter that names `base`."""
    write_base(folder, {"layers.0.q.weight": eighths(4, 3)}, {"model_type": "llama", **config})
    path = write_adapter(folder.parent / "adapter", Q, base_model_name_or_path=base)
    plan = loratools.merge(folder, path, output=None).plan
    return [note for note in plan.notes if "as its base" in note]


@pytest.mark.parametrize("own", ["meta-llama/Llama-2-7b", "/root/llama-2-7B/", "somebody/parent"])
@pytest.mark.parametrize("named", ["meta-llama/Llama-2-7b", "/data/Llama-2-7b"])
def test_base_of_the_same_name_is_not_noted(tmp_path: Path, named: str, own: str) -> None:
    """The folder has the name too, whatever its config has kept of the model it was made of."""
    assert notes(tmp_path / "Llama-2-7b", named, _name_or_path=own) == []


def test_merge_into_another_base_than_the_config_names_is_noted(tmp_path: Path) -> None:
    found = notes(tmp_path / "base", "meta-llama/Llama-2-7b", _name_or_path="Qwen/Qwen2-7B")
    assert found == [
        f"{tmp_path}/adapter: names 'meta-llama/Llama-2-7b' as its base, and this one calls itself "
        f"'Qwen/Qwen2-7B'; check that they are one model"
    ]


def test_folder_of_the_hubs_cache_says_which_base_it_is(tmp_path: Path) -> None:
    cached = tmp_path / "models--Qwen--Qwen2-7B" / "snapshots" / "0f1e"
    cached.parent.mkdir(parents=True)
    assert len(notes(cached, "meta-llama/Llama-2-7b")) == 1
    again = tmp_path / "models--meta-llama--Llama-2-7b" / "snapshots" / "0f1e"
    again.parent.mkdir(parents=True)
    assert notes(again, "meta-llama/Llama-2-7b") == []


@pytest.mark.parametrize("config", [{}, {"_name_or_path": ""}, {"_name_or_path": 7}], ids=str)
def test_base_that_does_not_say_what_it_is_is_not_noted(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    assert notes(tmp_path / "base", "meta-llama/Llama-2-7b", **config) == []


@pytest.mark.parametrize(
    ("one", "other", "is_noted"),
    [
        (Provenance("a/llama"), Provenance("a/qwen"), True),
        (Provenance("a/Llama"), Provenance("/models/llama"), False),
        (Provenance("a/llama"), Provenance(None), False),
        (Provenance("x", base_hash="1"), Provenance("y", base_hash="1"), False),
        (Provenance("x", base_hash="1"), Provenance("x", base_hash="2"), True),
        (Provenance("x", base_hash="1"), Provenance("x"), False),
    ],
)
def test_adapters_of_different_bases_are_noted(
    one: Provenance, other: Provenance, is_noted: bool
) -> None:
    adapters = [
        replace(adapter({"q": lora(0)}, where=where), provenance=provenance)
        for where, provenance in (("one", one), ("two", other))
    ]
    found = different_bases(adapters)
    assert bool(found) is is_noted
    assert all("(one)" in note and "(two)" in note for note in found)
