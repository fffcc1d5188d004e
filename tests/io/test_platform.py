"""Every function that a system may lack has a fallback: the same bytes, the same promise."""

import ctypes
import errno
import os
import random
import sys

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


def failing(number, times=None):
    """A call that fails, for the first few times or always, and does then what it replaces."""

    def replace(original):
        left = [times]

        def call(*arguments, **options):
            if left[0] == 0:
                return original(*arguments, **options)
            left[0] = left[0] and left[0] - 1
            raise OSError(number, os.strerror(number))

        return call

    return replace


@pytest.fixture
def without(monkeypatch):
    """Switch fast paths off by name."""

    def switch_off(*names):
        for name in names:
            if name == "fcntl":
                monkeypatch.setitem(sys.modules, "fcntl", None)
            elif name == "libc":
                monkeypatch.setattr(platform, "_libc_function", lambda name: None)
            else:
                monkeypatch.delattr(os, name)

    return switch_off


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").write_bytes(DATA)
    with (tmp_path / "source").open("rb") as file:
        yield file.fileno()


@pytest.fixture
def target(tmp_path):
    with (tmp_path / "target").open("w+b") as file:
        yield file.fileno()


def content(fd):
    return os.pread(fd, 10**6, 0)


# --- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(), ("preadv",), ("preadv", "pread")])
@pytest.mark.parametrize(("offset", "size"), [(0, 100_000), (99_990, 10), (5, 0), (3, 70_000)])
def test_a_buffer_is_filled_from_any_position(source, without, missing, offset, size):
    without(*missing)
    buffer = bytearray(size)
    assert pread_into(source, memoryview(buffer), offset) == size
    assert buffer == DATA[offset : offset + size]


@pytest.mark.parametrize("missing", [(), ("preadv",)])
def test_a_read_past_the_end_says_how_much_there_was(source, without, missing):
    without(*missing)
    buffer = bytearray(100)
    assert pread_into(source, memoryview(buffer), len(DATA) - 30) == 30
    assert buffer[:30] == DATA[-30:]
    assert pread_into(source, memoryview(buffer), len(DATA) + 10) == 0


def test_short_reads_are_continued(source, monkeypatch):
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, at, real=os.preadv: real(fd, [buffers[0][:777]], at)
    )
    buffer = bytearray(len(DATA))
    assert pread_into(source, memoryview(buffer), 0) == len(DATA)
    assert buffer == DATA


@pytest.mark.parametrize("missing", [(), ("pwrite",)])
def test_bytes_are_written_at_any_position(target, without, missing):
    """In any order, with what is between left alone."""
    without(*missing)
    pwrite_all(target, memoryview(DATA)[500:], 500)
    pwrite_all(target, memoryview(DATA)[:400], 0)
    pwrite_all(target, memoryview(b""), 10**9)
    assert content(target) == DATA[:400] + bytes(100) + DATA[500:]


def test_short_writes_are_continued(target, monkeypatch):
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, at, real=os.pwrite: real(fd, data[: 777 + at % 5], at)
    )
    pwrite_all(target, memoryview(DATA), 10)
    assert content(target) == bytes(10) + DATA


# --- copies --------------------------------------------------------------------------------------


def kernel_copies(monkeypatch, how):
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
        replies = iter([real] * 3)

        def copy(s, t, n, *at):
            return next(replies, failing(errno.EXDEV)(real))(s, t, min(n, 999), *at)

        monkeypatch.setattr(os, "copy_file_range", copy)


COPIES = [
    *("as it is", "missing", "short", "nothing", "failing later"),
    *(errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM),
]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("chunk", [platform._COPY_CHUNK, 1000])
def test_a_copy_is_the_same_bytes_however_it_is_made(monkeypatch, source, target, how, chunk):
    monkeypatch.setattr(platform, "_COPY_CHUNK", chunk)
    kernel_copies(monkeypatch, how)
    assert copy_range(source, 10, target, 20, 50_000) == 50_000
    assert content(target) == bytes(20) + DATA[10:50_010]


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_past_the_end_says_how_much_there_was(monkeypatch, source, target, how):
    kernel_copies(monkeypatch, how)
    assert copy_range(source, len(DATA) - 30, target, 0, 100) == 30
    assert content(target) == DATA[-30:]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_device_error_is_not_tried_again_another_way(monkeypatch, source, target, number):
    kernel_copies(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        copy_range(source, 0, target, 0, 100)
    assert content(target) == b""


# --- names ---------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "folder"])
def pair(tmp_path, request):
    """Two names to rename between, and functions that make and read what is there."""

    def make(name, text):
        path = tmp_path / name
        if request.param == "folder":
            path.mkdir()
            path = path / "inside"
        path.write_text(text)
        return tmp_path / name

    def read(path):
        return (path / "inside" if request.param == "folder" else path).read_text()

    return tmp_path, make, read


@pytest.fixture(params=["renameat2", "no renameat2", "no renameat2, no links"])
def renaming(request, without, monkeypatch):
    if request.param != "renameat2":
        without("libc")
    if request.param.endswith("links"):
        monkeypatch.setattr(os, "link", failing(errno.EPERM)(os.link))
    return request.param


def test_a_rename_takes_a_free_name(pair, renaming):
    folder, make, read = pair
    made = make("made", "new")
    rename_new(made, folder / "name")
    assert read(folder / "name") == "new"
    assert [path.name for path in folder.iterdir()] == ["name"]


@pytest.mark.parametrize("taken_by", ["the same kind", "a file", "a link to nothing"])
def test_a_rename_never_takes_a_name_from_anybody(pair, renaming, taken_by):
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


def test_an_exchange_swaps_two_names(pair, renaming):
    folder, make, read = pair
    made, taken = make("made", "new"), make("name", "old")
    exchange(made, taken)
    assert (read(taken), read(made)) == ("new", "old")
    assert sorted(path.name for path in folder.iterdir()) == ["made", "name"]


def test_an_exchange_that_fails_halfway_is_taken_back(pair, without, monkeypatch):
    folder, make, read = pair
    made, taken = make("made", "new"), make("name", "old")
    without("libc")
    real = type(made).rename

    def rename(path, target):
        if path == made:
            raise OSError(errno.EIO, "device")
        return real(path, target)

    monkeypatch.setattr(type(made), "rename", rename)
    with pytest.raises(OSError, match="device"):
        exchange(made, taken)
    assert (read(taken), read(made)) == ("old", "new")
    assert sorted(path.name for path in folder.iterdir()) == ["made", "name"]


def test_an_exchange_spares_what_a_kill_has_left(pair, without):
    """Three renames were cut short once, and `.loratools-old` is the only copy of a model."""
    _, make, read = pair
    made, taken, left = make("made", "new"), make("name", "old"), make("name.loratools-old", "left")
    without("libc")
    with pytest.raises(OutputError, match=r"name\.loratools-old: "):
        exchange(made, taken)
    assert (read(made), read(taken), read(left)) == ("new", "old", "left")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_a_file_system_that_does_not_know_a_flag_gets_the_fallback(pair, monkeypatch, number):
    _, make, read = pair
    made, taken = make("made", "new"), make("name", "old")

    def renameat2(*arguments):
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(platform, "_libc_function", lambda name: renameat2)
    exchange(made, taken)
    assert (read(taken), read(made)) == ("new", "old")


@pytest.mark.parametrize("number", [errno.EIO, errno.EXDEV, errno.EACCES, errno.EROFS])
def test_a_rename_that_fails_says_so(pair, monkeypatch, number):
    folder, make, read = pair
    made, taken = make("made", "new"), make("name", "old")

    def renameat2(*arguments):
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(platform, "_libc_function", lambda name: renameat2)
    for call, target in ((rename_new, folder / "free"), (exchange, taken)):
        with pytest.raises(OSError, match=os.strerror(number)):
            call(made, target)
    assert (read(made), read(taken)) == ("new", "old")


# --- locks and durability ------------------------------------------------------------------------


def test_a_folder_is_locked_once(tmp_path):
    first = lock_folder(tmp_path)
    with pytest.raises(BlockingIOError):
        lock_folder(tmp_path)
    os.close(first)
    os.close(lock_folder(tmp_path))


def test_a_system_without_locks_goes_without(tmp_path, without):
    without("fcntl")
    assert lock_folder(tmp_path) is None


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_goes_without(tmp_path, monkeypatch, number):
    """Lustre and some network file systems are mounted so."""
    import fcntl

    monkeypatch.setattr(fcntl, "flock", failing(number)(fcntl.flock))
    fd = lock_folder(tmp_path)
    assert os.path.samestat(os.fstat(fd), tmp_path.stat())
    os.close(fd)


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with pytest.raises(OSError, match="Not a directory"):
        lock_folder(tmp_path / "link")


def test_a_failed_lock_keeps_no_descriptor(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO)(fcntl.flock))
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with pytest.raises(OSError, match="Input/output error"):
        lock_folder(tmp_path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_a_folder_is_synced_where_that_can_be(tmp_path, monkeypatch, without):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sync_folder(tmp_path)
    assert synced == [tmp_path.stat().st_ino]
    without("O_DIRECTORY")
    sync_folder(tmp_path)
    assert len(synced) == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_syncs_no_folders_is_no_error(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", failing(number)(os.fsync))
    sync_folder(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_was_not_synced_is_an_error(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "fsync", failing(number)(os.fsync))
    with pytest.raises(OSError, match=os.strerror(number)):
        sync_folder(tmp_path)


@pytest.mark.parametrize("missing", [(), ("libc",)])
def test_writeback_is_a_hint_and_changes_nothing(target, without, missing):
    without(*missing)
    pwrite_all(target, memoryview(DATA), 0)
    start_writeback(target, 0, len(DATA))
    start_writeback(target, 2**40, 2**40)
    start_writeback(-1, 0, 1)
    assert content(target) == DATA


def test_other_systems_have_no_libc_of_ours(monkeypatch):
    monkeypatch.setattr(platform.sys, "platform", "darwin")
    assert platform._libc_function("renameat2") is None
