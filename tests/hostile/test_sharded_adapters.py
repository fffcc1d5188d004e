"""An adapter in several files is read whole, by its index; and a part of one is not an adapter."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.describing.description import Inspection
from loratools.errors import FormatError, LoratoolsError, UnsupportedError
from loratools.files.opening import open_adapter, open_base
from loratools.reshaping.rescaled import Rescaling

INDEX = "adapter_model.safetensors.index.json"
ONE, TWO = (f"adapter_model-0000{number}-of-00002.safetensors" for number in (1, 2))


def split(
    folder: Path,
    output: Path,
    *,
    stem: str = "adapter_model",
    suffix: str = ".safetensors",
    index: str | None = None,
) -> Path:
    """The adapter in two files and an index."""
    output.mkdir()
    shutil.copy(folder / "adapter_config.json", output)
    tensors = load_file(folder / "adapter_model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        shard = f"{stem}-0000{number}-of-00002{suffix}"
        held = {name: tensors[name] for name in part}
        if suffix == ".safetensors":
            save_file(held, output / shard, {"format": "pt"})
        else:
            torch.save(held, output / shard)
        weight_map |= dict.fromkeys(part, shard)
    fields = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (output / (index or f"{stem}{suffix}.index.json")).write_text(json.dumps(fields))
    return output


@pytest.fixture
def whole(fixtures: Path) -> Path:
    return fixtures / "adapters/plain"


@pytest.fixture
def sharded(whole: Path, tmp_path: Path) -> Path:
    return split(whole, tmp_path / "sharded")


def described(adapter: Inspection) -> dict[str, Any]:
    found = adapter.to_json()
    return {key: found[key] for key in found if key not in {"path", "bytes", "tokenizer_files"}}


def remap(folder: Path, change: Callable[[dict[str, str]], object], index: str = INDEX) -> None:
    fields = json.loads((folder / index).read_text())
    change(fields["weight_map"])
    (folder / index).write_text(json.dumps(fields))


@pytest.mark.parametrize("named", ["", INDEX])
def test_an_adapter_in_several_files_is_the_adapter_in_one(
    whole: Path, sharded: Path, named: str
) -> None:
    found = loratools.inspect(sharded / named, spectrum=True)
    assert described(found) == described(loratools.inspect(whole, spectrum=True))
    assert found.adapter.nbytes == sum((sharded / name).stat().st_size for name in (ONE, TWO))
    assert found.is_sound


def test_merging_an_adapter_in_several_files_merges_all_of_it(
    whole: Path, sharded: Path, fixtures: Path, tmp_path: Path
) -> None:
    base = fixtures / "stories260k"
    for name, adapter in (("one", whole), ("several", sharded), ("index", sharded / INDEX)):
        loratools.merge(base, adapter, output=tmp_path / name)
    model = "model.safetensors"
    assert (tmp_path / "several" / model).read_bytes() == (tmp_path / "one" / model).read_bytes()
    assert (tmp_path / "index" / model).read_bytes() == (tmp_path / "one" / model).read_bytes()


def test_what_is_written_of_several_files_is_one(
    whole: Path, sharded: Path, tmp_path: Path
) -> None:
    loratools.rescale(sharded, output=tmp_path / "out", rescaling=Rescaling(strength=1.0))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert loratools.inspect(tmp_path / "out").parameters == loratools.inspect(whole).parameters


@pytest.mark.parametrize("index", [None, "model.safetensors.index.json"])
def test_an_index_may_be_named_as_transformers_names_it(
    whole: Path, tmp_path: Path, index: str | None
) -> None:
    folder = split(whole, tmp_path / "other", index=index)
    assert described(loratools.inspect(folder)) == described(loratools.inspect(whole))
    with pytest.raises(UnsupportedError, match="an adapter, where a base model is expected"):
        open_base(folder)
    shard_index = next(folder.glob("*.index.json"))
    with pytest.raises(UnsupportedError, match="an adapter, where a base model is expected"):
        open_base(shard_index)


def test_pickles_in_several_files_are_read_where_that_is_allowed(
    whole: Path, tmp_path: Path
) -> None:
    folder = split(whole, tmp_path / "bin", suffix=".bin")
    with pytest.raises(UnsupportedError, match=r"a pickle.*; allow_pickle=True reads it"):
        open_adapter(folder)
    with pytest.raises(UnsupportedError, match=r"a pickle.*; allow_pickle=True reads it"):
        open_adapter(folder / "adapter_model.bin.index.json")
    found = loratools.inspect(folder, allow_pickle=True)
    assert found.parameters == loratools.inspect(whole).parameters


@pytest.mark.parametrize("part", [ONE, TWO])
def test_one_part_of_several_is_refused_as_a_part(
    sharded: Path, tmp_path: Path, fixtures: Path, part: str
) -> None:
    says = rf"{part}: one of 2 parts that are read as a whole; name their folder, or their index"
    with pytest.raises(FormatError, match=says):
        open_adapter(sharded / part)
    with pytest.raises(FormatError, match=says):
        loratools.merge(fixtures / "stories260k", sharded / part, output=tmp_path / "out")


def test_one_part_without_a_config_is_refused_as_a_part(fixtures: Path, tmp_path: Path) -> None:
    part = tmp_path / "lora-00001-of-00002.safetensors"
    shutil.copy(next((fixtures / "kohya/sd15-locon").glob("*.safetensors")), part)
    with pytest.raises(FormatError, match="one of 2 parts that are read as a whole"):
        open_adapter(part)


def test_one_part_of_a_base_is_refused_as_a_part(
    fixtures: Path, whole: Path, tmp_path: Path
) -> None:
    shard = fixtures / "stories260k-bf16-sharded/model-00001-of-00002.safetensors"
    with pytest.raises(FormatError, match="one of 2 parts that are read as a whole"):
        loratools.merge(shard, whole, output=tmp_path / "out.safetensors")


def test_a_file_that_is_the_only_part_is_whole(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(whole / "adapter_config.json", folder)
    name = "adapter_model-00001-of-00001.safetensors"
    shutil.copy(whole / "adapter_model.safetensors", folder / name)
    for path in (folder, folder / name):
        assert described(loratools.inspect(path)) == described(loratools.inspect(whole))


def duplicate(folder: Path) -> None:
    tensors = load_file(folder / TWO)
    name, tensor = next(iter(load_file(folder / ONE).items()))
    save_file({**tensors, name: tensor}, folder / TWO)


def drop(folder: Path) -> None:
    tensors = load_file(folder / TWO)
    tensors.popitem()
    save_file(tensors, folder / TWO)


SPOILT = {
    "no index": (lambda f: (f / INDEX).unlink(), "parts of an adapter, without the index"),
    "a shard is missing": (lambda f: (f / TWO).unlink(), f"lists {TWO}, and no such file"),
    "all shards are missing": (
        lambda f: [(f / name).unlink() for name in (ONE, TWO)],
        f"lists {ONE}, {TWO}, and no such file",
    ),
    "a tensor is missing": (drop, f"says that {TWO} holds .*, which it does not"),
    "a tensor is in two": (duplicate, f"does not list .*, which {TWO} holds"),
    "a shard is not listed": (
        lambda f: remap(f, lambda m: [m.pop(key) for key in [*m] if m[key] == TWO]),
        f"does not list {TWO}, another part by its name",
    ),
    "a tensor is not listed": (lambda f: remap(f, dict.popitem), "does not list"),
    "the other shard": (
        lambda f: remap(f, lambda m: m.update({min(m): TWO})),
        f"does not list .*, which {ONE} holds",
    ),
    "a shard is a path": (
        lambda f: remap(f, lambda m: m.update({min(m): f"../{f.name}/{ONE}"})),
        "is not the plain name of a safetensors file",
    ),
    "a shard is a pickle": (
        lambda f: remap(f, lambda m: m.update({min(m): "adapter_model.bin"})),
        "is not the plain name of a safetensors file",
    ),
    "no names": (lambda f: remap(f, dict.clear), "has no weight_map"),
    "a whole one beside it": (
        lambda f: shutil.copy(f / ONE, f / "adapter_model.safetensors"),
        f"has both adapter_model.safetensors and {INDEX}",
    ),
    "other metadata": (
        lambda f: save_file(load_file(f / TWO), f / TWO, {"format": "np"}),
        "metadata and that of other parts differ in format",
    ),
}


@pytest.mark.parametrize(("spoil", "says"), SPOILT.values(), ids=SPOILT)
def test_what_index_and_parts_disagree_about_is_named(
    sharded: Path, spoil: Callable[..., Path | list[str | None] | None], says: str
) -> None:
    spoil(sharded)
    with pytest.raises(LoratoolsError, match=says):
        open_adapter(sharded)


def test_an_output_cannot_take_the_place_of_a_part(
    sharded: Path, tmp_path: Path, fixtures: Path
) -> None:
    """The adapter is named by its index, and the output is beside it."""
    base = tmp_path / "model.safetensors"
    shutil.copy(fixtures / "stories260k/model.safetensors", base)
    before = (sharded / TWO).read_bytes()
    with pytest.raises(LoratoolsError, match="lies inside the input"):
        loratools.merge(
            base,
            sharded / INDEX,
            output=sharded / TWO,
            write=loratools.WriteOptions(overwrite=True),
        )
    assert (sharded / TWO).read_bytes() == before
