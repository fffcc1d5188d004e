"""Every function that a system may lack has a fallback: the same bytes, the same promise."""

import ctypes
import errno
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loratools.errors import OutputError
from loratools.io import platform
from loratools.io.platform import (
    copy_range,
    exchange,
    lock_folder,
    pread_into,
    pwrite_all,
    rename_new,
    start_writeback,
    sync_folder,
)

DATA = random.Random(0).randbytes(100_000)
Call = Callable[..., Any]
#: A folder, and functions that make and read what has a name in it.
Pair = tuple[Path, Callable[[str, str], Path], Callable[[Path], str]]


def failing(number: int, times: int | None = None) -> Callable[[Call], Call]:
    """A call that fails, for the first few times or always, and does then what it replaces."""

    def replace(original: Call) -> Call:
        left = [times]

        def call(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                return original(*arguments, **options)
            left[0] = left[0] and left[0] - 1
            raise OSError(number, os.strerror(number))

        return call

    return replace


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Switch fast paths off by name."""

    def switch_off(*names: str) -> None:
        for name in names:
            if name == "fcntl":
                monkeypatch.setitem(sys.modules, "fcntl", None)
            elif name == "libc":
                monkeypatch.setattr(platform, "_libc_function", lambda name: None)
            else:
                monkeypatch.delattr(os, name)

    return switch_off


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(DATA)
    with (tmp_path / "source").open("rb") as file:
        yield file.fileno()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    with (tmp_path / "target").open("w+b") as file:
        yield file.fileno()


def content(fd: int) -> bytes:
    return os.pread(fd, 10**6, 0)


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(), ("preadv",), ("preadv", "pread")])
@pytest.mark.parametrize(("offset", "size"), [(0, 100_000), (99_990, 10), (5, 0), (3, 70_000)])
def test_a_buffer_is_filled_from_any_position(
    source: int, without: Callable[..., None], missing: tuple[str, ...], offset: int, size: int
) -> None:
    without(*missing)
    buffer = bytearray(size)
    assert pread_into(source, memoryview(buffer), offset) == size
    assert buffer == DATA[offset : offset + size]


@pytest.mark.parametrize("missing", [(), ("preadv",)])
def test_a_read_past_the_end_says_how_much_there_was(
    source: int, without: Callable[..., None], missing: tuple[str, ...]
) -> None:
    without(*missing)
    buffer = bytearray(100)
    assert pread_into(source, memoryview(buffer), len(DATA) - 30) == 30
    assert buffer[:30] == DATA[-30:]
    assert pread_into(source, memoryview(buffer), len(DATA) + 10) == 0


def test_short_reads_are_continued(source: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, at, real=os.preadv: real(fd, [buffers[0][:777]], at)
    )
    buffer = bytearray(len(DATA))
    assert pread_into(source, memoryview(buffer), 0) == len(DATA)
    assert buffer == DATA


@pytest.mark.parametrize("missing", [(), ("pwrite",)])
def test_bytes_are_written_at_any_position(
    target: int, without: Callable[..., None], missing: tuple[str, ...]
) -> None:
    """In any order, with what is between left alone."""
    without(*missing)
    pwrite_all(target, memoryview(DATA)[500:], 500)
    pwrite_all(target, memoryview(DATA)[:400], 0)
    pwrite_all(target, memoryview(b""), 10**9)
    assert content(target) == DATA[:400] + bytes(100) + DATA[500:]


def test_short_writes_are_continued(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, at, real=os.pwrite: real(fd, data[: 777 + at % 5], at)
    )
    pwrite_all(target, memoryview(DATA), 10)
    assert content(target) == bytes(10) + DATA


# --- copies --------------------------------------------------------------------------------------


def kernel_copies(monkeypatch: pytest.MonkeyPatch, how: str | int) -> None:
    """`os.copy_file_range` as it is, missing, failing at once or later, or doing little."""
    real = os.copy_file_range
    if how == "missing":
        monkeypatch.delattr(os, "copy_file_range")
    elif isinstance(how, int):
        monkeypatch.setattr(os, "copy_file_range", failing(how)(real))
    elif how == "short":
        monkeypatch.setattr(
            os, "copy_file_range", lambda s, t, n, *at: real(s, t, min(n, 999), *at)
        )
    elif how == "nothing":
        monkeypatch.setattr(os, "copy_file_range", lambda *arguments: 0)
    elif how == "failing later":
        replies: Iterator[Call] = iter([real] * 3)

        def copy(s: int, t: int, n: int, *at: int) -> int:
            copied: int = next(replies, failing(errno.EXDEV)(real))(s, t, min(n, 999), *at)
            return copied

        monkeypatch.setattr(os, "copy_file_range", copy)


COPIES = [
    *("as it is", "missing", "short", "nothing", "failing later"),
    *(errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM),
]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("chunk", [platform._COPY_CHUNK, 1000])
def test_a_copy_is_the_same_bytes_however_it_is_made(
    monkeypatch: pytest.MonkeyPatch, source: int, target: int, how: str | int, chunk: int
) -> None:
    monkeypatch.setattr(platform, "_COPY_CHUNK", chunk)
    kernel_copies(monkeypatch, how)
    assert copy_range(source, 10, target, 20, 50_000) == 50_000
    assert content(target) == bytes(20) + DATA[10:50_010]


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_past_the_end_says_how_much_there_was(
    monkeypatch: pytest.MonkeyPatch, source: int, target: int, how: str | int
) -> None:
    kernel_copies(monkeypatch, how)
    assert copy_range(source, len(DATA) - 30, target, 0, 100) == 30
    assert content(target) == DATA[-30:]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_device_error_is_not_tried_again_another_way(
    monkeypatch: pytest.MonkeyPatch, source: int, target: int, number: int
) -> None:
    kernel_copies(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        copy_range(source, 0, target, 0, 100)
    assert content(target) == b""


# --- names ---------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "folder"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Pair:
    """Two names to rename between, and functions that make and read what is there."""

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        if request.param == "folder":
            path.mkdir()
            path = path / "inside"
        path.write_text(text)
        return tmp_path / name

    def read(path: Path) -> str:
        return (path / "inside" if request.param == "folder" else path).read_text()

    return tmp_path, make, read


@pytest.fixture(params=["renameat2", "no renameat2", "no renameat2, no links"])
def renaming(
    request: pytest.FixtureRequest, without: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> str:
    named: str = request.param
    if named != "renameat2":
        without("libc")
    if named.endswith("links"):
        monkeypatch.setattr(os, "link", failing(errno.EPERM)(os.link))
    return named


def test_a_rename_takes_a_free_name(pair: Pair, renaming: str) -> None:
    folder, make, read = pair
    made = make("made", "new")
    rename_new(made, folder / "name")
    assert read(folder / "name") == "new"
    assert [path.name for path in folder.iterdir()] == ["name"]


@pytest.mark.parametrize("taken_by", ["the same kind", "a file", "a link to nothing"])
def test_a_rename_never_takes_a_name_from_anybody(
    pair: Pair,
    renaming: str,
    taken_by: str,
) -> None:
    folder, make, read = pair
    made, taken = make("made", "new"), folder / "name"
    if taken_by == "the same kind":
        make("name", "old")
    elif taken_by == "a file":
        taken.write_text("old")
    else:
        taken.symlink_to("gone")
    with pytest.raises(OutputError, match="name: appeared while this run was at work"):
        rename_new(made, taken)
    assert read(made) == "new"
    assert taken.is_symlink() if "link" in taken_by else (taken.is_dir() or taken.read_text())


def test_an_exchange_swaps_two_names(pair: Pair, renaming: str) -> None:
    folder, make, read = pair
    made, taken = make("made", "new"), make("name", "old")
    exchange(made, taken)
    assert (read(taken), read(made)) == ("new", "old")
    assert sorted(path.name for path in folder.iterdir()) == ["made", "name"]


def test_an_exchange_that_fails_halfway_is_taken_back(
    pair: Pair,
    without: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, make, read = pair
    made, taken = make("made", "new"), make("name", "old")
    without("libc")
    real = type(made).rename

    def rename(path: Path, target: Path) -> Path:
        if path == made:
            raise OSError(errno.EIO, "device")
        return real(path, target)

    monkeypatch.setattr(type(made), "rename", rename)
    with pytest.raises(OSError, match="device"):
        exchange(made, taken)
    assert (read(taken), read(made)) == ("old", "new")
    assert sorted(path.name for path in folder.iterdir()) == ["made", "name"]


def test_an_exchange_spares_what_a_kill_has_left(
    pair: Pair,
    without: Callable[..., None],
) -> None:
    """Three renames were cut short once, and `.loratools-old` is the only copy of a model."""
    _, make, read = pair
    made, taken, left = make("made", "new"), make("name", "old"), make("name.loratools-old", "left")
    without("libc")
    with pytest.raises(OutputError, match=r"name\.loratools-old: "):
        exchange(made, taken)
    assert (read(made), read(taken), read(left)) == ("new", "old", "left")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_does_not_know_a_flag_gets_the_fallback(
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    _, make, read = pair
    made, taken = make("made", "new"), make("name", "old")

    def renameat2(*arguments: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(platform, "_libc_function", lambda name: renameat2)
    exchange(made, taken)
    assert (read(taken), read(made)) == ("new", "old")


@pytest.mark.parametrize("number", [errno.EIO, errno.EXDEV, errno.EACCES, errno.EROFS])
def test_a_rename_that_fails_says_so(
    pair: Pair,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    folder, make, read = pair
    made, taken = make("made", "new"), make("name", "old")

    def renameat2(*arguments: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(platform, "_libc_function", lambda name: renameat2)
    for call, target in ((rename_new, folder / "free"), (exchange, taken)):
        with pytest.raises(OSError, match=os.strerror(number)):
            call(made, target)
    assert (read(made), read(taken)) == ("new", "old")


# --- locks and durability ------------------------------------------------------------------------


def locked(folder: Path) -> int:
    """The descriptor of its lock."""
    fd = lock_folder(folder)
    assert fd is not None
    return fd


def test_a_folder_is_locked_once(tmp_path: Path) -> None:
    first = locked(tmp_path)
    with pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    os.close(first)
    os.close(locked(tmp_path))


def test_a_system_without_locks_goes_without(tmp_path: Path, without: Callable[..., None]) -> None:
    without("fcntl")
    assert lock_folder(tmp_path) is None


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Lustre and some network file systems are mounted so."""
    import fcntl

    monkeypatch.setattr(fcntl, "flock", failing(number)(fcntl.flock))
    fd = locked(tmp_path)
    assert os.path.samestat(os.fstat(fd), tmp_path.stat())
    os.close(fd)


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(OSError, match="Not a directory"):
        lock_folder(tmp_path / "link")


def test_a_failed_lock_keeps_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO)(fcntl.flock))
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_a_folder_is_synced_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: Callable[..., None]
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sync_folder(tmp_path)
    assert synced == [tmp_path.stat().st_ino]
    without("O_DIRECTORY")
    sync_folder(tmp_path)
    assert len(synced) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_syncs_no_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number)(os.fsync))
    sync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_was_not_synced_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number)(os.fsync))
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)


@pytest.mark.parametrize("missing", [(), ("libc",)])
def test_writeback_is_a_hint_and_changes_nothing(
    target: int, without: Callable[..., None], missing: tuple[str, ...]
) -> None:
    without(*missing)
    pwrite_all(target, memoryview(DATA), 0)
    start_writeback(target, 0, len(DATA))
    start_writeback(target, 2**40, 2**40)
    start_writeback(-1, 0, 1)
    assert content(target) == DATA


def test_other_systems_have_no_libc_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert platform._libc_function("renameat2") is None
