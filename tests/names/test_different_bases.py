"""Adapters of other bases are named, and those of the same one are not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.files.checkpoints import open_checkpoint
from loratools.names.bases import another_base, different_bases
from loratools.parts import Provenance
from tests.merged import eighths, pair, write_adapter, write_base
from tests.reshaping.adapters import adapter, lora

Q = pair("layers.0.q", 4, 3)


def notes(folder: Path, base: str, **config: Any) -> list[str]:
    """Of a merge into a folder, of an adapter that names `base`."""
    write_base(folder, {"layers.0.q.weight": eighths(4, 3)}, {"model_type": "llama", **config})
    path = write_adapter(folder.parent / "adapter", Q, base_model_name_or_path=base)
    plan = loratools.merge(folder, path, output=None).plan
    return [note for note in plan.notes if "as its base" in note]


@pytest.mark.parametrize("own", ["meta-llama/Llama-2-7b", "/data/llama-2-7B/", "somebody/parent"])
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


@pytest.mark.parametrize("named", [".", "./", "..", "/", ""])
def test_base_that_was_named_by_where_it_lay_is_not_noted(tmp_path: Path, named: str) -> None:
    assert notes(tmp_path / "base", named, _name_or_path="Qwen/Qwen2-7B") == []


def test_inspect_beside_another_base_notes_it_as_merge_does(tmp_path: Path) -> None:
    (said,) = notes(tmp_path / "base", "meta-llama/Llama-2-7b", _name_or_path="Qwen/Qwen2-7B")
    found = loratools.inspect(tmp_path / "adapter", base=tmp_path / "base")
    assert said == f"{tmp_path}/adapter: {found.notes[-1].message}"
    assert found.is_sound


@pytest.mark.parametrize(
    ("named", "digest", "is_noted"),
    [("other", "a", False), ("base", "b", True), ("base", "", False), ("other", "", True)],
)
def test_hash_of_a_base_in_the_hubs_cache_goes_before_its_name(
    tmp_path: Path, named: str, digest: str, is_noted: bool
) -> None:
    """The cache calls a file by its hash, and links its name to it."""
    cache = tmp_path / "models--ann--base"
    weights = write_base(cache / "written", {"layers.0.q.weight": eighths(4, 3)})
    (cache / "blobs").mkdir()
    blob = (weights / "model.safetensors").rename(cache / "blobs" / (64 * "a"))
    (cache / "snapshots" / "0f1e").mkdir(parents=True)
    file = cache / "snapshots" / "0f1e" / "base.safetensors"
    file.symlink_to(blob)
    origin = Provenance(f"{named}.safetensors", base_hash=64 * digest or None)
    found = another_base(replace(adapter({}), provenance=origin), open_checkpoint(file))
    assert (found is not None) is is_noted


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
        (Provenance("a/llama"), Provenance("."), False),
        # What a file is called, and what a model or a family of them is, cannot be compared
        (Provenance("v1-5.safetensors"), Provenance("a/stable-diffusion-v1-5"), False),
        (Provenance("v1-5.safetensors", "sd_v1"), Provenance(None, "sd_v1"), False),
        (Provenance("x.ckpt", "sd_v1"), Provenance("x.safetensors", "sd_v1"), False),
        (Provenance("x.safetensors", "sd_v1"), Provenance("y.safetensors", "sd_v1"), True),
        (Provenance(None, "sd_v1"), Provenance(None, "sdxl_base_v1-0"), True),
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
