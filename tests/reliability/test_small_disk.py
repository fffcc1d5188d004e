"""A disk that runs full in the middle of a merge keeps what it had, and nothing of the merge."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loratools import WriteOptions, merge
from loratools.errors import StorageError
from tests.disks import Disk, mounted
from tests.e2e.commands import PLAIN, SHARDED, digests


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with mounted("ext4", tmp_path_factory.mktemp("small"), 16 * 2**20) as disk:
        yield disk


@pytest.mark.parametrize("direct", ["0", "1"])
@pytest.mark.parametrize("left", [0, 64 * 2**10, 400 * 2**10])
def test_a_disk_that_runs_full_during_a_merge_keeps_nothing_of_it(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: str, left: int
) -> None:
    monkeypatch.setenv("LORATOOLS_DIRECT", direct)
    output = disk.path / "merged"

    def fill(done: int, _total: int) -> None:
        # When the output was checked and begun, another program takes the room.
        if not (disk.path / "filler").exists():
            disk.fill(left)

    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC).lower()):
        merge(SHARDED, PLAIN, output=output, write=WriteOptions(progress=fill, jobs=2))
    disk.empty()
    assert {path.name for path in disk.path.iterdir()} <= {"lost+found"}
    merge(SHARDED, PLAIN, output=output)
    merge(SHARDED, PLAIN, output=tmp_path / "elsewhere")
    assert digests(output) == digests(tmp_path / "elsewhere")
    for path in [*output.iterdir(), output]:
        path.rmdir() if path.is_dir() else path.unlink()
