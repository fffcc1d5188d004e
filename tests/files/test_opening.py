"""A name is looked up once: what it leads to is listed once, and read from there."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from loratools.files.opening import open_adapter, open_base
from loratools.io import inside
from loratools.io.folder import LocalFolder
from tests.e2e.commands import PLAIN

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
ADAPTER = FIXTURES / "adapters" / "embedding-vocab"
SHARDED = FIXTURES / "stories260k-bf16-sharded"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, Path]]:
    """How often each folder was listed, by what lists it."""
    count: Counter[tuple[str, Path]] = Counter()
    listed_here, entries = LocalFolder._listed_here, inside.entries

    def counted_here(folder: LocalFolder, *, folders: bool) -> tuple[str, ...]:
        count["its own files", folder.path] += 1
        return listed_here(folder, folders=folders)

    def counted_entries(path: Path, depth: int | None = None) -> list[str]:
        count["files in its folders too", path] += 1
        return entries(path, depth)

    monkeypatch.setattr(LocalFolder, "_listed_here", counted_here)
    monkeypatch.setattr("loratools.io.folder.entries", counted_entries)
    return count


@pytest.mark.parametrize(
    ("opened", "path"),
    [
        (open_base, FIXTURES / "stories260k"),
        (open_base, SHARDED),
        (open_base, SHARDED / "model.safetensors.index.json"),
        (open_adapter, ADAPTER),
        (open_adapter, ADAPTER / "adapter_model.safetensors"),
    ],
    ids=["model", "shards", "index", "adapter", "adapter's file"],
)
def test_no_folder_is_listed_twice_to_open_what_is_in_it(
    listed: Counter[tuple[str, Path]], opened: Callable[[Path], object], path: Path
) -> None:
    opened(path)
    assert listed
    assert set(listed.values()) == {1}


def test_a_model_is_opened_without_a_look_into_the_folders_in_it(
    listed: Counter[tuple[str, Path]],
) -> None:
    open_base(SHARDED)
    assert listed == {("its own files", SHARDED): 1}


def test_a_folder_that_is_opened_again_is_listed_again(tmp_path: Path) -> None:
    for file in ADAPTER.iterdir():
        shutil.copy(file, tmp_path)
    before = open_adapter(tmp_path).companions
    (tmp_path / "tokenizer.json").unlink()
    after = open_adapter(tmp_path).companions
    assert {file.name for file in before} - {file.name for file in after} == {"tokenizer.json"}


def test_a_config_that_is_read_in_place_of_the_adapters_own_is_noted(tmp_path: Path) -> None:
    """Of several adapters with one config, each but one may have been trained with another."""
    other, own = tmp_path / "other.json", PLAIN / "adapter_config.json"
    shutil.copy(own, other)
    notes = {note.message for note in open_adapter(PLAIN, config=other).notes}
    (said,) = notes - {note.message for note in open_adapter(PLAIN).notes}
    assert said == f"{other} is read in place of the adapter_config.json beside it"
    assert open_adapter(PLAIN, config=own).notes == open_adapter(PLAIN).notes
    bare = Path(shutil.copy(PLAIN / "adapter_model.safetensors", tmp_path))
    assert open_adapter(bare, config=other).notes == open_adapter(PLAIN).notes
