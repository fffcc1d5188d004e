"""Overlays that are damaged, incomplete or untrue are refused, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.errors import FormatError, LoratoolsError, UnsupportedError
from loratools.merging.execute import WriteOptions
from tests.hostile.checkpoints import lora, write_adapter, write_safetensors
from tests.merged import read_json

SHAPES = {"model.q.weight": ("F32", (4, 4)), "model.k.weight": ("F32", (4, 4))}
NAMES = ("overlay-00001-of-00002.safetensors", "overlay-00002-of-00002.safetensors")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_safetensors(tmp_path / "base/model.safetensors", SHAPES)
    (tmp_path / "base/config.json").write_text('{"torch_dtype": "float32"}')
    return tmp_path / "base"


def made(base: Path, name: str, weight: float = 1) -> Path:
    adapter = base.with_name(f"adapter of {name}")
    write_adapter(adapter, lora("model.q", (4, 4)) | lora("model.k", (4, 4)))
    output = base.with_name(name)
    write = WriteOptions(only_changed=True, max_shard_bytes=1)
    loratools.merge(base, adapter, output=output, weights=[weight], write=write)
    return output


@pytest.fixture
def overlay(base: Path) -> Path:
    overlay = made(base, "overlay")
    assert {*NAMES, "overlay.json"} == {path.name for path in overlay.iterdir()}
    return overlay


def refused(base: Path, overlay: Path, kind: type[LoratoolsError], message: str) -> None:
    output = base.with_name("out")
    with pytest.raises(kind, match=message) as raised:
        loratools.merge(f"{base}+{overlay}", [], output=output)
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)
    assert not output.exists()


def edit(overlay: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = read_json(overlay / "overlay.json")
    change(fields)
    (overlay / "overlay.json").write_text(json.dumps(fields))


def test_a_missing_shard_is_refused(base: Path, overlay: Path) -> None:
    (overlay / NAMES[1]).unlink()
    refused(base, overlay, FormatError, f"{NAMES[1]}: no such file")


def test_shards_of_two_overlays_are_not_mixed(base: Path, overlay: Path) -> None:
    other = made(base, "other", weight=2)
    shutil.copy(other / NAMES[1], overlay)
    refused(base, overlay, FormatError, f"{NAMES[1]}: has other values than overlay.json says")
    write_safetensors(overlay / NAMES[1], {"model.k.weight": ("F32", (4, 5))})
    refused(base, overlay, FormatError, "has other tensors than")


def test_a_weight_file_that_is_not_listed_is_refused(base: Path, overlay: Path) -> None:
    shutil.copy(overlay / NAMES[1], overlay / "more.safetensors")
    refused(base, overlay, FormatError, r"does not list more\.safetensors, which is beside it")


@pytest.mark.parametrize(
    ("field", "value"),
    [("file", NAMES[1]), ("dtype", "F16"), ("shape", [4, 5]), ("shape", [16])],
)
def test_a_manifest_that_is_wrong_about_a_tensor_is_refused(
    field: str, value: object, base: Path, overlay: Path
) -> None:
    first = next(iter(read_json(overlay / "overlay.json")["tensors"]))
    edit(overlay, lambda fields: fields["tensors"][first].update({field: value}))
    refused(base, overlay, FormatError, f"{first}: not as in the overlay's files")


@pytest.mark.parametrize("kind", [None, {"dtype": "F32", "shape": [4, 5]}])
def test_a_tensor_that_replaces_another_kind_than_announced_is_refused(
    kind: object, base: Path, overlay: Path
) -> None:
    edit(overlay, lambda fields: fields["tensors"]["model.q.weight"].update(replaces=kind))
    message = r"says that model\.q\.weight replaces .*, and the base has F32 \[4, 4\]"
    refused(base, overlay, FormatError, message)


def test_a_tensor_that_is_new_to_the_base_has_to_be_announced(base: Path, overlay: Path) -> None:
    def rename(fields: dict[str, Any]) -> None:
        fields["renamed"] = {"model.z.weight": "model.q.weight"}

    edit(overlay, rename)
    refused(base, overlay, FormatError, r"replaces F32 \[4, 4\], and the base has nothing")


@pytest.mark.parametrize(
    "renamed", [{"model.z.weight": "model.none.weight"}, {"model.k.weight": "model.q.weight"}]
)
def test_names_that_cannot_be_given_are_refused(
    renamed: dict[str, str], base: Path, overlay: Path
) -> None:
    edit(overlay, lambda fields: fields.update(renamed=renamed))
    refused(base, overlay, FormatError, "cannot be renamed so")


def _delete(*path: str) -> Callable[[dict[str, Any]], object]:
    def change(fields: dict[str, Any]) -> None:
        for part in path[:-1]:
            fields = fields[part]
        del fields[path[-1]]

    return change


def _set(value: object, *path: str | int) -> Callable[[Any], object]:
    def change(fields: Any) -> None:
        for part in path[:-1]:
            fields = fields[part]
        fields[path[-1]] = value

    return change


MALFORMED = {
    "no base": _delete("base"),
    "no tensors": _delete("tensors"),
    "no name of the base": _delete("base", "name"),
    "a base of another type": _set([], "base"),
    "shards of another type": _set(None, "shards"),
    "tensors of another type": _set(["model.q.weight"], "tensors"),
    "a shard of another type": _set([NAMES[0]], "shards"),
    "a digest of another length": _set("00", "shards", 0, "header"),
    "a digest of another type": _set(1, "base", "shards", 0, "samples"),
    "a config of another type": _set(1, "base", "config"),
    "an answer of another type": _set("yes", "base", "is_folder"),
    "a path out of the folder": _set("../x.safetensors", "shards", 0, "name"),
    "an absolute path": _set("/x.safetensors", "shards", 0, "name"),
    "a pickle": _set("model.bin", "shards", 0, "name"),
    "a shape that is none": _set("4x4", "tensors", "model.q.weight", "shape"),
    "a shape of another type": _set([4.0, 4], "tensors", "model.q.weight", "shape"),
    "a kind that is none": _set(1, "tensors", "model.q.weight", "replaces"),
    "names of another type": _set({"x": 1}, "renamed"),
    "files of another type": _set(["config.json"], "beside"),
    "two files of one name": _set([], "shards"),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_manifest_is_refused(
    change: Callable[[dict[str, Any]], object], base: Path, overlay: Path
) -> None:
    edit(overlay, change)
    refused(base, overlay, FormatError, r"overlay\.json: ")


@pytest.mark.parametrize("text", ["", "[]", '{"loratools_overlay": 1', "\xff"])
def test_a_manifest_that_is_no_json_object_is_refused(text: str, base: Path, overlay: Path) -> None:
    (overlay / "overlay.json").write_text(text, encoding="latin-1")
    refused(base, overlay, FormatError, r"overlay\.json: ")


def test_a_later_version_of_the_format_is_refused(base: Path, overlay: Path) -> None:
    edit(overlay, _set(2, "loratools_overlay"))
    refused(base, overlay, UnsupportedError, "loratools_overlay is 2, and this version reads 1")


def test_the_same_shard_twice_is_refused(base: Path, overlay: Path) -> None:
    edit(overlay, lambda fields: fields["shards"].append(fields["shards"][0]))
    refused(base, overlay, FormatError, r"overlay\.json")


@pytest.fixture
def with_config(base: Path) -> Path:
    adapter = base.with_name("adapter")
    write_adapter(adapter, lora("model.q", (4, 4)))
    output, write = base.with_name("overlay"), WriteOptions(only_changed=True)
    options = loratools.MergeOptions(dtype="float16")
    loratools.merge(base, adapter, output=output, options=options, write=write)
    assert (output / "beside/config.json").exists()
    return output


def test_a_file_beside_that_is_missing_changed_or_not_listed_is_refused(
    base: Path, with_config: Path
) -> None:
    config = with_config / "beside/config.json"
    before = config.read_text()
    config.write_text(before.replace("float16", "float15"))
    refused(base, with_config, FormatError, r"beside/config\.json: is not the file that")
    config.unlink()
    refused(base, with_config, FormatError, r"config\.json: not as in .*/beside")
    config.write_text(before)
    (with_config / "beside/model.py").write_text("")
    refused(base, with_config, FormatError, r"model\.py: not as in .*/beside")
    (with_config / "beside/model.py").rename(with_config / "beside/.model.py")
    loratools.merge(f"{base}+{with_config}", [], output=base.with_name("out"))


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin", "x.pkl", "adapter_config.json", "../x"])
def test_weights_and_adapters_beside_are_refused(name: str, base: Path, with_config: Path) -> None:
    (with_config / "beside" / name).write_text("{}")
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of `{}`
    edit(with_config, lambda fields: fields["beside"].update({name: digest}))
    refused(base, with_config, FormatError, rf"{name}: not as in .*/beside")


def test_a_link_beside_is_not_followed(base: Path, with_config: Path, tmp_path: Path) -> None:
    config = with_config / "beside/config.json"
    config.rename(tmp_path / "config.json")
    config.symlink_to(tmp_path / "config.json")
    refused(base, with_config, FormatError, r"config\.json")
