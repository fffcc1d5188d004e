"""A folder is one unambiguous model of float weights, or it is refused with the reason."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratools.errors import FormatError, LoratoolsError, UnsupportedError
from loratools.files.checkpoints import open_checkpoint
from loratools.merging.merge import merge
from tests.hostile.checkpoints import (
    write_index,
    write_json,
    write_safetensors,
)

ONE, OTHER = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WEIGHT = ("F32", (4, 4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sharded model: `a` and `b` in one file, `c` in the other."""
    write_safetensors(tmp_path / "model" / ONE, {"a": WEIGHT, "b": WEIGHT})
    write_safetensors(tmp_path / "model" / OTHER, {"c": WEIGHT})
    write_index(tmp_path / "model", {"a": ONE, "b": ONE, "c": OTHER}, total_size=192)
    return tmp_path / "model"


def refusal(path: Path, kind: type[LoratoolsError] = FormatError) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_shards_are_read_by_their_index(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint.tensors) == ["a", "b", "c"]
    assert [shard.name for shard in checkpoint.shards] == [ONE, OTHER]
    assert checkpoint.components[0].index_metadata == {"total_size": 192}
    assert list(open_checkpoint(folder / "model.safetensors.index.json").tensors) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "name",
    [
        *("../x.safetensors", "x/../../y.safetensors", "sub/x.safetensors", "./x.safetensors"),
        *("/etc/x.safetensors", "//host/x.safetensors", "C:x.safetensors", "C:\\x.safetensors"),
        *("..\\x.safetensors", "sub\\x.safetensors", "\\\\host\\share\\x.safetensors"),
        *("x\0.safetensors", "x\n.safetensors", "\x1b[2J.safetensors", "x.safetensors:stream"),
        *("a:b.safetensors", "x\x7f.safetensors", "x.bin", "x.safetensors/", "x.safetensors\0"),
        *("", "..", "model", None, 3, ["x.safetensors"], {"x.safetensors": 1}, True),
    ],
)
def test_a_shard_is_a_plain_name_of_a_safetensors_file(folder: Path, name: object) -> None:
    """On POSIX and on Windows; what it would name is never touched."""
    write_index(folder, {"a": ONE, "b": name})
    text = refusal(folder)
    assert "is not the plain name of a safetensors file" in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("weight_map", "says"),
    [
        ({"a": ONE, "b": ONE}, f"does not list {OTHER}, another part by its name"),
        ({"a": ONE, "c": OTHER}, f"does not list b, which {ONE} holds"),
        ({"a": ONE, "b": ONE, "c": ONE}, f"says that {ONE} holds c, which it does not"),
        ({"a": ONE, "b": OTHER, "c": OTHER}, f"says that {ONE} holds|does not list b"),
        (
            {"a": ONE, "b": ONE, "c": OTHER, "d": OTHER},
            f"says that {OTHER} holds d, which it does not",
        ),
        ({"a": ONE, "b": ONE, "c": "gone.safetensors"}, "lists gone.safetensors, and no such file"),
        ({}, "has no weight_map"),
        (None, "has no weight_map"),
        ([], "has no weight_map"),
        ("a", "has no weight_map"),
    ],
)
def test_an_index_says_what_the_shards_hold(
    folder: Path, weight_map: str | list[object] | dict[str, str] | None, says: str
) -> None:
    write_index(folder, weight_map)
    assert any(part in refusal(folder) for part in says.split("|"))


def test_parts_of_another_number_are_left_over_from_before(folder: Path) -> None:
    write_safetensors(folder / "model-00001-of-00003.safetensors", {"c": WEIGHT})
    assert list(open_checkpoint(folder).tensors) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"weight_map": {"a": 1, "a": 2}}', "\ufeff{}"]
)
def test_a_broken_index_is_named(folder: Path, text: str) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(text)
    assert str(index) in refusal(folder)


def test_a_tensor_is_in_one_file_only(folder: Path) -> None:
    write_safetensors(folder / OTHER, {"c": WEIGHT, "a": WEIGHT})
    write_index(folder, {"b": ONE, "c": OTHER, "a": OTHER})
    assert "does not list a" in refusal(folder)


def test_a_tensor_is_in_one_file_only_whatever_the_index_says(folder: Path) -> None:
    from loratools.io.checkpoint import Checkpoint, Component

    found = open_checkpoint(folder)
    with pytest.raises(
        FormatError, match=r"a is in model-00001.* and in .*, and a tensor may be in one"
    ):
        Checkpoint(str(folder), folder, True, (Component((found.shards[0], found.shards[0])),))


def test_index_and_single_file_are_one_too_many(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", {"a": WEIGHT})
    assert "has both model.safetensors and model.safetensors.index.json" in refusal(folder)
    assert len(open_checkpoint(folder / "model.safetensors").tensors) == 1
    assert len(open_checkpoint(folder / "model.safetensors.index.json").tensors) == 3


def test_several_indexes_are_too_many(folder: Path) -> None:
    write_safetensors(folder / "other.safetensors", {"c": WEIGHT})
    write_json(folder / "other.safetensors.index.json", {"weight_map": {"c": "other.safetensors"}})
    assert "several indexes" in refusal(folder)
    assert list(open_checkpoint(folder / "other.safetensors.index.json").tensors) == ["c"]


def test_several_files_need_an_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert f"{ONE}, {OTHER}: parts of the weights, without the index" in refusal(folder)


def test_model_safetensors_is_preferred_among_several(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    write_safetensors(folder / "model.safetensors", {"a": WEIGHT})
    assert [shard.name for shard in open_checkpoint(folder).shards] == ["model.safetensors"]


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "gone")
    assert "no safetensors file in this folder" in refusal(tmp_path)


def test_a_name_too_long_for_any_file_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 300)
    for call in (open_checkpoint, lambda path: merge(path, path, output=None)):
        with pytest.raises(FormatError, match="file name too long"):
            call(path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", "a pickle, which can run code"),
        ("model.pt", "a pickle, which can run code"),
        ("model.ckpt", "a pickle, which can run code"),
        ("model.gguf", "a GGUF file; merge into the safetensors model"),
        ("weights", "a GGUF file; merge into the safetensors model"),
    ],
)
def test_other_weights_are_refused_with_a_way_out(tmp_path: Path, name: str, says: str) -> None:
    """A pickle is refused by its name, a GGUF by its first bytes too."""
    file = tmp_path / name
    file.write_bytes(b"GGUF" + bytes(100) if "GGUF" in says else b"\x80\x02.")
    assert says in refusal(file, UnsupportedError)
    if file.suffix:
        assert says in refusal(tmp_path, UnsupportedError)


def test_a_broken_safetensors_file_is_not_replaced_by_a_pickle(folder: Path) -> None:
    """The file that was asked for, or none."""
    (folder / OTHER).write_bytes(b"")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    assert "an empty file (0 bytes)" in refusal(folder)


def test_an_adapter_is_no_base(fixtures: Path) -> None:
    text = refusal(fixtures / "adapters/plain", UnsupportedError)
    assert "an adapter, where a base model is expected" in text


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device", "dangling link"])
def test_a_shard_is_a_regular_file(folder: Path, kind: str) -> None:
    """Opening a pipe does not wait for somebody to write to it."""
    shard = folder / OTHER
    shard.unlink()
    make: dict[str, Callable[[], None]] = {
        "pipe": lambda: os.mkfifo(shard),
        "folder": shard.mkdir,
        "link to a device": lambda: shard.symlink_to("/dev/zero"),
        "dangling link": lambda: shard.symlink_to("gone"),
    }
    make[kind]()
    is_gone = kind == "dangling link"
    expected = "a link to gone, which is not there" if is_gone else "not a regular file"
    with pytest.raises(FormatError, match=f"{shard.name}: {expected}"):
        open_checkpoint(folder)


def test_a_shard_may_be_a_link_as_in_a_cache(folder: Path) -> None:
    blob = (folder / OTHER).rename(folder.parent / "blob")
    (folder / OTHER).symlink_to(blob)
    assert list(open_checkpoint(folder).tensors) == ["a", "b", "c"]


def linear(
    target: str = "q", dtype: str = "BF16", shape: tuple[int, int] = (8, 8), **others: Any
) -> dict[str, tuple[str, tuple[int, int]]]:
    return {f"{target}.weight": (dtype, shape)} | others


@pytest.mark.parametrize("text", ["[]", "", "{", "\xff", '{"a": 1, "a": 1}', '{"a": NaN}'])
def test_a_broken_config_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(LoratoolsError, match=r"config\.json"):
        open_checkpoint(folder)
