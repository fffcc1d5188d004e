"""Inputs are read-only, and one that changes during a run is noticed."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pytest

from loratools import WriteOptions, merge
from loratools.errors import OutputError, StorageError
from tests.e2e.commands import PLAIN, SHARDED, digests, unchanged

Made = TypeVar("Made")
SHARD, OTHER = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


class Meanwhile(Executor):
    """Runs every step at once; between two of them something happens."""

    def __init__(self, happens: Callable[[], object], after: int) -> None:
        self.happens = happens
        self.left = after

    def submit(self, step: Callable[..., Made], /, *arguments: Any, **options: Any) -> Future[Made]:
        future: Future[Made] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(step(*arguments, **options))
        except Exception as error:  # as an executor does
            future.set_exception(error)
        self.left -= 1
        if self.left == 0:
            self.happens()
        return future


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return shutil.copytree(SHARDED, tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return shutil.copytree(PLAIN, tmp_path / "adapter")


def appended(file: Path) -> None:
    with file.open("ab") as other:
        other.write(b"more")


def rewritten(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def touched(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 100)


@pytest.mark.parametrize("change", [appended, rewritten, touched, truncated])
@pytest.mark.parametrize("after", [1, 3, 20])
@pytest.mark.parametrize("which", [SHARD, OTHER, "adapter"])
def test_an_input_that_changes_is_noticed(
    tmp_path: Path,
    base: Path,
    adapter: Path,
    change: Callable[[Path], object],
    after: int,
    which: str,
) -> None:
    """Whenever it is: after the first step, or when all of it was read but for the last."""
    file = adapter / "adapter_model.safetensors" if which == "adapter" else base / which
    executor = Meanwhile(lambda: change(file), after)
    with pytest.raises(StorageError, match=r"changed while it was read|became shorter") as caught:
        merge(base, adapter, output=tmp_path / "out", write=WriteOptions(executor=executor))
    assert str(file) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["adapter", "base"]  # noqa: PTH208


@pytest.mark.parametrize("which", [SHARD, OTHER])
def test_a_base_that_changes_after_it_was_read_is_noticed(
    tmp_path: Path, base: Path, adapter: Path, which: str
) -> None:
    """What was read before may be neither the old file nor the new one."""

    def change(done: int, total: int) -> None:
        if done == total:
            touched(base / which)

    with pytest.raises(StorageError, match=f"{which}: changed while it was read"):
        merge(base, adapter, output=tmp_path / "out", write=WriteOptions(progress=change))
    assert sorted(os.listdir(tmp_path)) == ["adapter", "base"]  # noqa: PTH208


def test_an_input_that_is_replaced_is_the_one_that_was_opened(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    """Renaming over it does no harm: it is still open."""
    merge(base, adapter, output=tmp_path / "expected")

    def replace() -> None:
        for file in (base / SHARD, base / OTHER):
            shutil.copyfile(adapter / "adapter_model.safetensors", tmp_path / "other")
            (tmp_path / "other").replace(file)

    write = WriteOptions(executor=Meanwhile(replace, 1))
    merge(base, adapter, output=tmp_path / "out", write=write)
    assert digests(tmp_path / "out") == digests(tmp_path / "expected")


def test_another_process_does_not_read_what_replaced_an_input(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    """It opens its files by their names."""

    class Replaced(ProcessPoolExecutor):
        def submit(
            self, step: Callable[..., Made], /, *arguments: Any, **options: Any
        ) -> Future[Made]:
            if (tmp_path / "other").exists():
                (tmp_path / "other").replace(base / SHARD)
            return super().submit(step, *arguments, **options)

    shutil.copyfile(base / SHARD, tmp_path / "other")
    with (
        Replaced(1, mp_context=get_context("forkserver")) as pool,
        pytest.raises(StorageError, match=f"{SHARD}: changed while it was read"),
    ):
        merge(base, adapter, output=tmp_path / "out", write=WriteOptions(executor=pool))
    assert sorted(os.listdir(tmp_path)) == ["adapter", "base"]  # noqa: PTH208


def test_inputs_are_not_touched_even_by_a_merge_that_fails(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    with unchanged(base, adapter):
        merge(base, adapter, output=tmp_path / "out")
        with pytest.raises(OutputError):
            merge(base, adapter, output=tmp_path / "gone" / "out")


@pytest.mark.parametrize("mode", [0o444, 0o400])
def test_a_read_only_input_is_enough(tmp_path: Path, base: Path, adapter: Path, mode: int) -> None:
    for folder in (base, adapter):
        for file in folder.iterdir():
            file.chmod(mode)
        folder.chmod(0o555)
    try:
        merge(base, adapter, output=tmp_path / "out")
    finally:
        base.chmod(0o755)
        adapter.chmod(0o755)
    assert all(file.stat().st_mode & 0o200 for file in (tmp_path / "out").iterdir())
