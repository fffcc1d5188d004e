"""Outputs that cannot be are refused before anything is written."""

import os
import shutil
from pathlib import Path

import pytest

from loratools.errors import OutputError, StorageError
from loratools.files.outputs import check_output


@pytest.fixture(params=["folder", "file"])
def is_folder(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "folder")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def check(
    output: Path,
    *inputs: Path,
    is_folder: bool = True,
    needed_bytes: int = 0,
    overwrite: bool = False,
) -> None:
    check_output(
        output, inputs, is_folder=is_folder, needed_bytes=needed_bytes, overwrite=overwrite
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_text("input")
    return folder


def test_an_output_that_exists_needs_a_flag(tmp_path: Path, is_folder: bool) -> None:
    output = tmp_path / ("output" if is_folder else "output.safetensors")
    if is_folder:
        output.mkdir()
    else:
        output.write_text("old")
    with pytest.raises(OutputError, match="exists already; use overwrite=True to replace it"):
        check(output, is_folder=is_folder)
    check(output, is_folder=is_folder, overwrite=True)


@pytest.mark.parametrize("name", [".", "..", "", "x/..", "/"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="has no name of its own"):
        check(Path(name), overwrite=overwrite)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gone: no such folder"):
        check(tmp_path / "gone/output")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: not a folder"):
        check(tmp_path / "file/output")


@pytest.mark.parametrize("name", ["n" * 300, "n" * 240, "a\0b"])
def test_a_name_that_nothing_can_have_is_refused(tmp_path: Path, name: str) -> None:
    """The folder that an output is made in has a longer name than the output."""
    with pytest.raises(OutputError, match=r"name too long|null"):
        check(tmp_path / name)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_an_output(
    tmp_path: Path, model: Path, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever name: files are compared, and not spellings."""
    file = model / "model.safetensors"
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "link to file").symlink_to(file)
    (tmp_path / "hard link").hardlink_to(file)
    monkeypatch.chdir(model)
    for output in (
        model,
        tmp_path / "x/../model",
        tmp_path / "link",
        model / "output",
        tmp_path / "link/output",
        Path("output"),
        Path("../model"),
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="name another output"):
            check(output, model, overwrite=overwrite)
    for output in (
        file,
        tmp_path / "link to file",
        tmp_path / "hard link",
        tmp_path / "link" / file.name,
    ):
        with pytest.raises(OutputError, match="is the input"):
            check(output, file, is_folder=False, overwrite=overwrite)


def test_an_output_that_holds_an_input_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(OutputError, match="holds the input"):
        check(model, model / "model.safetensors", overwrite=True)
    with pytest.raises(OutputError, match="holds the input"):
        check(tmp_path, model, overwrite=True)


def test_an_output_that_holds_what_an_input_links_to_is_refused(
    tmp_path: Path, model: Path
) -> None:
    """As in a cache: a folder of links into a folder of files."""
    cache = tmp_path / "snapshot"
    cache.mkdir()
    (cache / "model.safetensors").symlink_to(model / "model.safetensors")
    with pytest.raises(OutputError, match=r"holds the input .*snapshot/model\.safetensors"):
        check(model, cache, overwrite=True)
    with pytest.raises(OutputError, match="holds the input"):
        check(model / "model.safetensors", cache, is_folder=False, overwrite=True)
    check(tmp_path / "output", cache)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_is_never_replaced(
    output: Path, model: Path, is_folder: bool, overwrite: bool
) -> None:
    target = model if is_folder else model / "model.safetensors"
    output.symlink_to(target)
    with pytest.raises(OutputError, match="a link; name the" if overwrite else "exists already"):
        check(output, is_folder=is_folder, overwrite=overwrite)
    output.unlink()
    output.symlink_to("gone")
    with pytest.raises(OutputError, match="a link; name the" if overwrite else "exists already"):
        check(output, is_folder=is_folder, overwrite=overwrite)


def test_only_a_folder_that_may_be_an_output_is_replaced(output: Path) -> None:
    output.mkdir()
    check(output, overwrite=True)  # an empty one holds nothing to lose
    (output / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="a folder without safetensors files is not replaced"):
        check(output, overwrite=True)
    (output / "model.safetensors").write_text("")
    check(output, overwrite=True)


def test_a_folder_is_not_replaced_by_a_file_nor_a_file_by_a_folder(
    output: Path, model: Path
) -> None:
    """A single file for an output must not cost a folder of models."""
    with pytest.raises(OutputError, match="model: not a file, and the output is one"):
        check(model, is_folder=False, overwrite=True)
    output.write_text("old")
    with pytest.raises(OutputError, match="output: not a folder, and the output is one"):
        check(output, overwrite=True)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "pipe"])
def test_a_device_is_never_replaced(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for is_folder in (False, True):
        with pytest.raises(OutputError, match="name another output"):
            check(tmp_path / path, is_folder=is_folder, overwrite=True)


def test_what_does_not_fit_is_refused_before_it_is_written(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(output.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    check(output, needed_bytes=1000)
    with pytest.raises(StorageError, match="1001 bytes are needed and 1000 are free"):
        check(output, needed_bytes=1001)
