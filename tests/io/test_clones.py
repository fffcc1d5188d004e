"""What can be cloned is cloned, and nobody can tell by the bytes."""

import errno
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.io.clones import BLOCK_BYTES, bytes_to_write, can_clone, clone_range
from loratools.io.file import InputFile
from loratools.io.platform import copy_range
from loratools.io.publish import staged
from tests.disks import Disk, cloning, mounted

DATA = random.Random(0).randbytes(50_000)
WITHOUT = [
    *(errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL, errno.EXDEV),
    *(errno.EPERM, errno.EACCES, errno.ETXTBSY, errno.EAGAIN),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "source").write_bytes(DATA)
    with (folder / "source").open("rb") as source, (folder / "target").open("w+b") as target:
        yield source.fileno(), target.fileno()


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Disk]:
    with mounted(request.param, tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@given(
    begin=st.integers(0, 50_000),
    blocks=st.integers(-5, 5),
    shift=st.sampled_from([0, 0, 0, 8, 4095]),
    size=st.integers(0, 50_000),
)
@pytest.mark.parametrize("number", [None, errno.EOPNOTSUPP])
def test_a_copy_is_the_same_bytes_with_clones_and_without(
    pair: tuple[int, int], number: int | None, begin: int, blocks: int, shift: int, size: int
) -> None:
    """Whole blocks are cloned, by one call; less than two blocks are left to be copied."""
    source, target = pair
    offset = max(0, begin + blocks * BLOCK_BYTES) + shift
    os.ftruncate(target, 0)
    with cloning(number) as fake:
        copied = copy_range(source, begin, target, offset, size)
    expected = DATA[begin : begin + size]
    assert copied == len(expected)
    assert os.pread(target, 10**6, 0)[offset:] == expected
    if (begin - offset) % BLOCK_BYTES:
        assert fake.ranges == []
    elif begin + size <= len(DATA) and number is None:
        assert len(fake.ranges) <= 1
        assert size - fake.nbytes < 2 * BLOCK_BYTES


@pytest.mark.parametrize("number", WITHOUT)
def test_a_file_system_without_clones_gets_a_copy(pair: tuple[int, int], number: int) -> None:
    source, target = pair
    with cloning(number) as fake:
        assert clone_range(source, 0, target, 0, 50_000) == (0, 0)
        assert copy_range(source, 0, target, 0, 50_000) == 50_000
    assert len(fake.ranges) == 2
    assert os.pread(target, 50_000, 0) == DATA


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failing_disk_is_not_taken_for_one_without_clones(
    pair: tuple[int, int], number: int
) -> None:
    source, target = pair
    os.ftruncate(target, 0)
    with cloning(number), pytest.raises(OSError, match=os.strerror(number)):
        copy_range(source, 0, target, 0, 50_000)
    assert os.fstat(target).st_size == 0


def test_other_systems_are_not_asked(
    pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, the number of the request may mean something else."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with cloning() as fake:
        assert clone_range(*(pair[0], 0, pair[1], 0), 50_000) == (0, 0)
    assert fake.ranges == []


def test_a_source_that_became_shorter_is_noticed(pair: tuple[int, int]) -> None:
    source, target = pair
    with cloning():
        assert copy_range(source, 40_000, target, 40_000 % BLOCK_BYTES, 20_000) == 10_000


# Room


def test_what_can_be_cloned_needs_no_room(tmp_path: Path) -> None:
    """Else an output that fits would be refused."""
    source, missing, small = tmp_path / "source", tmp_path / "missing", tmp_path / "small"
    source.write_bytes(DATA)
    small.write_bytes(b"")
    clonable = {source: 700, missing: 20, small: 1}
    with cloning():
        assert bytes_to_write(1000, clonable, tmp_path) == 300
        assert bytes_to_write(1000, clonable, missing) == 1000
    for number in (errno.EOPNOTSUPP, errno.ENOSPC):
        with cloning(number):
            assert bytes_to_write(1000, clonable, tmp_path) == 1000
    assert sorted(tmp_path.iterdir()) == [small, source]


def test_a_question_for_clones_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    with cloning():
        assert can_clone(tmp_path / "source", tmp_path)
        assert not can_clone(tmp_path / "source", tmp_path / "missing")
        monkeypatch.delattr(os, "O_TMPFILE")
        assert not can_clone(tmp_path / "source", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# File systems that make clones


def test_a_copied_file_takes_no_room(disk: Disk) -> None:
    size = 20_000_001
    source = disk.path / "source"
    source.write_bytes(random.Random(1).randbytes(size))
    assert can_clone(source, disk.path)
    before = disk.written()
    with staged(disk.path / "copies", is_folder=True, overwrite=False) as staging:
        staging.copy_file("copy", InputFile(source))
        staging.publish()
    assert (disk.path / "copies/copy").read_bytes() == source.read_bytes()
    assert disk.written() - before < 2_000_000


def test_clones_are_apart_once_one_is_written_to(disk: Disk) -> None:
    source, target = disk.path / "one", disk.path / "other"
    source.write_bytes(DATA)
    with source.open("rb") as original, target.open("w+b") as copy:
        assert clone_range(original.fileno(), 0, copy.fileno(), BLOCK_BYTES, 40_000) != (0, 0)
        os.pwrite(copy.fileno(), b"new", BLOCK_BYTES + 7)
    assert source.read_bytes() == DATA
    assert target.read_bytes()[BLOCK_BYTES:][:100] == DATA[:7] + b"new" + DATA[10:100]


def test_two_file_systems_share_nothing(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    assert not can_clone(tmp_path / "source", disk.path)
