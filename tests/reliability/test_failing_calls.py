"""Whichever call of the operating system fails, what is left is nothing, or what there was.

The method of SQLite's tests: the Nth storing call fails, for N = 1, 2, ... until a merge succeeds.
`scripts/kill_loop.py --strace` does the same to real system calls.
"""

import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from loratools import RankRule, WriteOptions, merge, resize
from loratools.errors import StorageError
from loratools.io import platform
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, SMALL, digests, unchanged
from tests.narrowing import present

Call = Callable[..., Any]
ERRORS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS]


class Calls:
    """Counts storing calls, and lets one of them fail."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.left = 0
        self.failed = ""
        for name in ("mkdir", "ftruncate", "pwrite", "copy_file_range", "fsync", "link"):
            patch.setattr(os, name, self.counted(name, getattr(os, name), number))
        libc = platform._libc_function
        patch.setattr(platform, "_libc_function", lambda name: self.libc(name, libc(name), number))

    def fails(self, name: str) -> bool:
        self.left -= 1
        if self.left == 0:
            self.failed = name
        return self.left == 0

    def counted(self, name: str, real: Call, number: int) -> Call:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.fails(name):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        return call

    def libc(self, name: str, real: Call | None, number: int) -> Call | None:
        def call(*arguments: Any) -> Any:
            if self.fails(name):
                ctypes.set_errno(number)
                return -1
            return present(real)(*arguments)

        # These are hints, and may fail without a word.
        return real if name in {"sync_file_range", "fallocate"} else call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the old and the new output are, for every base."""
    folder = tmp_path_factory.mktemp("made")
    for base in (SHARDED, SINGLE / "model.safetensors"):
        merge(base, SMALL, output=folder / f"old {base.name}")
        merge(base, PLAIN, output=folder / f"new {base.name}")
    return folder


def failure(call: Call) -> StorageError | None:
    """What a call fails with, which is a `StorageError`; None where it succeeds."""
    try:
        call()
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("base", [SHARDED, SINGLE / "model.safetensors"], ids=["folder", "file"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("jobs", "direct"), [(1, "0"), (2, "0"), (2, "1")], ids=["one", "two", "direct"]
)
def test_any_call_may_fail(
    tmp_path: Path,
    made: Path,
    base: Path,
    overwrite: bool,
    jobs: int,
    direct: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LORATOOLS_DIRECT", direct)
    work = tmp_path / "work"
    work.mkdir()
    name = "output" if base.is_dir() else "output.safetensors"
    output, old = work / name, made / f"old {base.name}"
    write = WriteOptions(overwrite=overwrite, jobs=jobs)
    seen = set()
    for turn in range(1, 200):
        if overwrite and not output.exists():
            (shutil.copytree if old.is_dir() else shutil.copyfile)(old, output)
        number = ERRORS[turn % len(ERRORS)]
        with pytest.MonkeyPatch.context() as patch, unchanged(base, PLAIN):
            calls = Calls(patch, number)
            calls.left = turn
            error = failure(partial(merge, base, PLAIN, output=output, write=write))
        assert error is None or os.strerror(number).lower() in str(error)
        if not calls.failed:
            break
        seen.add(calls.failed)
        if overwrite:
            assert digests(output) == digests(old), (turn, calls.failed)
        assert os.listdir(work) == [name] * overwrite, (turn, calls.failed)  # noqa: PTH208
    assert digests(output) == digests(made / f"new {base.name}")
    assert os.listdir(work) == [name]  # noqa: PTH208
    copies = {"copy_file_range"} if direct == "0" or base.is_dir() else set()
    assert seen == {"mkdir", "ftruncate", "pwrite", "fsync", "renameat2"} | copies


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("adapter", "name"),
    [(SMALL, "adapter"), (FIXTURES / "kohya/sd15-locon", "adapter.safetensors")],
    ids=["folder", "file"],
)
def test_any_call_may_fail_while_an_adapter_is_written(
    tmp_path: Path, adapter: Path, name: str, overwrite: bool
) -> None:
    work, output = tmp_path / "work", tmp_path / "work" / name
    work.mkdir()
    old, new = tmp_path / f"old {name}", tmp_path / f"new {name}"
    resize(adapter, output=old, rule=RankRule(rank=1))
    resize(adapter, output=new, rule=RankRule(rank=2))
    seen = set()
    for turn in range(1, 200):
        if overwrite and not output.exists():
            (shutil.copytree if old.is_dir() else shutil.copyfile)(old, output)
        number = ERRORS[turn % len(ERRORS)]
        with pytest.MonkeyPatch.context() as patch, unchanged(adapter):
            calls = Calls(patch, number)
            calls.left = turn
            again = partial(resize, adapter, rule=RankRule(rank=2), overwrite=overwrite, jobs=1)
            error = failure(partial(again, output=output))
        assert error is None or os.strerror(number).lower() in str(error)
        if not calls.failed:
            break
        seen.add(calls.failed)
        if overwrite:
            assert digests(output) == digests(old), (turn, calls.failed)
        assert os.listdir(work) == [name] * overwrite, (turn, calls.failed)  # noqa: PTH208
    assert digests(output) == digests(new)
    assert os.listdir(work) == [name]  # noqa: PTH208
    assert seen >= {"mkdir", "ftruncate", "pwrite", "fsync", "renameat2"}
