"""The system calls that differ between operating systems: a function for each, with a fallback.

Linux has `copy_file_range`, `renameat2`, `sync_file_range` and folders that can be fsynced. Where
one is missing the fallback gives the same bytes and the same promise, more slowly or, where a
function says so, more weakly.
"""

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from loratools.errors import OutputError
from loratools.io.clones import clone_range
from loratools.io.stopping import check_stop

_COPY_CHUNK = 8 * 2**20
#: The most bytes of one system call; between two calls, a run can be stopped.
AT_ONCE = 64 * 2**20
_PAGE_GROUP = 2 * 2**20
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2
#: The error codes of a kernel or a file system that does not support a call.
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM)
#: Where positional reads and writes are missing, seeking and reading must not be interrupted.
_seek_lock = threading.Lock()


def pread_into(fd: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` from `offset` on; return the bytes read, fewer only at the end of the file."""
    done = 0
    while done < len(buffer):
        check_stop()
        count = _read_once(fd, buffer[done : done + AT_ONCE], offset + done)
        if count == 0:
            break
        done += count
    return done


def descriptor_path(fd: int) -> Path | None:
    """A path by which this process can open a descriptor's file again; None if there is none."""
    path = Path(f"/proc/self/fd/{fd}")
    return path if path.exists() else None


def pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    done = 0
    while done < len(data):
        check_stop()
        done += _write_once(fd, data[done : done + AT_ONCE], offset + done)


def copy_range(source: int, begin: int, target: int, offset: int, size: int) -> int:
    """Copy `size` bytes between two files; return the bytes copied, fewer if the source is shorter.

    Whole blocks are cloned where the file system can, the rest is copied in the kernel if it can.
    """
    first, last = clone_range(source, begin, target, offset, size)
    before = _copy_in_kernel(source, begin, target, offset, first)
    after = _copy_in_kernel(source, begin + last, target, offset + last, size - last)
    return before + (last - first) + after


def rename_new(source: Path, target: Path) -> None:
    """Rename atomically to a name that must not exist.

    Without `renameat2` a folder still cannot replace a folder that has entries, but would replace
    an empty one made in the same instant; a file is linked under the new name, which never replaces
    another, or, on a file system without links, renamed after a look at that name.

    Raises:
        OutputError: `target` exists.
    """
    try:
        if not _renameat2(source, target, _RENAME_NOREPLACE):
            _rename_new_portably(source, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise OutputError(
                f"{target}: appeared while this run was at work, and is left as it is"
            ) from error
        raise


def exchange(first: Path, second: Path) -> None:
    """Swap two names: at every instant both exist.

    Without `renameat2` three renames do it, and for a moment `second` is absent; a kill in that
    moment leaves the old content under the name `<second>.loratools-old`.
    """
    if _renameat2(first, second, _RENAME_EXCHANGE):
        return
    aside = second.with_name(f"{second.name}.loratools-old")
    rename_new(second, aside)
    try:
        first.rename(second)
    except BaseException:
        aside.rename(second)
        raise
    aside.rename(first)


def lock_folder(folder: Path) -> int | None:
    """Open and lock a folder for this process; None where folders cannot be opened.

    On a file system without locks the folder is only opened; on a network's file system the lock
    may not reach other machines.

    Raises:
        BlockingIOError: the folder is locked already.
    """
    try:
        import fcntl
    except ImportError:
        return None
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (*_NOT_SUPPORTED, errno.ENOLCK):
            os.close(fd)
            raise
    return fd


def sync_folder(folder: Path) -> None:
    """Make the directory entries of `folder` durable; do nothing where folders cannot be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(fd)


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Ask the kernel to begin writing a range to disk, so that the fsync later has less to do."""
    function = _libc_function("sync_file_range")
    if function is not None:
        function(
            fd, ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )


def reserve_range(fd: int, offset: int, size: int) -> None:
    """Let the file system find room for a range that is written next, if it can.

    Threads that write past the page cache to a range without room wait for each other.
    """
    function = _libc_function("fallocate")
    if function is not None:  # a full disk is noticed when it is written to
        function(fd, ctypes.c_int(0), ctypes.c_int64(offset), ctypes.c_int64(size))


def expect_long_reads(fd: int) -> None:
    """Let the kernel read further ahead in a file, if the system can."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # it is a hint
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def forget_range(fd: int, begin: int, end: int) -> None:
    """Drop a range of a file from the page cache, if the system can; what is mapped stays.

    The kernel drops only pages that lie in the range as a whole, in groups of up to 2 MiB. So the
    range is begun earlier: the group at its end is left to the range that follows.
    """
    if hasattr(os, "posix_fadvise"):
        first = begin - begin % _PAGE_GROUP
        with suppress(OSError):  # it is a hint
            os.posix_fadvise(fd, first, end - first, os.POSIX_FADV_DONTNEED)


def _read_once(fd: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _write_once(fd: int, data: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def _copy_in_kernel(source: int, begin: int, target: int, offset: int, size: int) -> int:
    done = 0
    copy: Callable[..., int] | None = getattr(os, "copy_file_range", None)
    while done < size and copy is not None:
        check_stop()
        piece = min(size - done, AT_ONCE)
        try:
            count = copy(source, target, piece, begin + done, offset + done)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            break
        if count == 0:  # the end, or a file system that returns 0 without having looked
            break
        done += count
    return done + _copy_by_hand(source, begin + done, target, offset + done, size - done)


def _copy_by_hand(source: int, begin: int, target: int, offset: int, size: int) -> int:
    buffer = memoryview(bytearray(min(size, _COPY_CHUNK)))
    done = 0
    while done < size:
        chunk = buffer[: size - done]
        count = pread_into(source, chunk, begin + done)
        if count == 0:
            break
        pwrite_all(target, chunk[:count], offset + done)
        done += count
    return done


def _rename_new_portably(source: Path, target: Path) -> None:
    if source.is_file():
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
        else:
            source.unlink()
            return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "exists", str(target))
    source.rename(target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Call `renameat2`; False where the kernel or the file system does not support it."""
    function = _libc_function("renameat2")
    if function is None:
        return False
    paths = os.fsencode(source), os.fsencode(target)
    if function(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number), str(target))


def _libc_function(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    return function
