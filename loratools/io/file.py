"""An input file that is read by position, and refused if it changes between two reads."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from loratools.errors import FormatError, StorageError
from loratools.io.descriptors import Descriptor
from loratools.io.failures import path_errors, storage_errors
from loratools.io.header import LENGTH_BYTES, Header, header_size, parse_header
from loratools.io.inside import READ_FLAGS, open_inside
from loratools.io.missing import broken_link
from loratools.io.opened import tell
from loratools.io.platform import (
    descriptor_path,
    expect_long_reads,
    forget_range,
    pread_into,
)
from loratools.io.sniffed import SNIFFED_BYTES, Known, sniffed
from loratools.typed import worded

_HASHED_BYTES = 2**20


class InputFile:
    """A regular file, read with `pread` and never mapped: a truncation is an error, not a SIGBUS.

    It can be pickled; its copy opens the same file again when it is first read. With `folder`, no
    link from there to `path` is followed: for files that are published or copied.

    Raises:
        FormatError: the file does not exist, is a folder, a pipe or a device, or, with `folder`, is
            reached through a link.
        StorageError: the file may not be read.
    """

    def __init__(self, path: Path, *, folder: Path | None = None) -> None:
        self.path = path
        self._folder = folder
        fd = _open(path, folder)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise FormatError(f"{path}: not a regular file", file=path)
        self.size = status.st_size
        self._identity = _identity(status)
        self._is_streamed, self._is_kept = False, True
        self._descriptor = self._reopened(fd)
        tell(path, self.size)

    def __repr__(self) -> str:
        """The class and the path."""
        return f"InputFile({str(self.path)!r})"

    def _reopened(self, fd: int = -1) -> Descriptor:
        return Descriptor(self._opener(), fd)

    def _opener(self) -> Callable[[], int]:
        how = self.path, self._folder, self._identity, self._is_streamed
        return partial(_open_same, *how)

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__ | {"path": self.path.absolute()}
        state["_folder"] = self._folder and self._folder.absolute()
        del state["_descriptor"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        # Not opened by unpickling: an error there would break a whole pool of processes.
        self.__dict__.update(state)
        self._descriptor = self._reopened()

    @property
    def where(self) -> str:
        """The path, as it is named in messages."""
        return str(self.path)

    def used(self) -> AbstractContextManager[int]:
        """The open descriptor, for the duration of a block: for copies inside the kernel."""
        return self._descriptor.used()

    @contextmanager
    def named(self) -> Iterator[Path]:
        """A path to the open file, for the duration of a block.

        Where the system has paths of open descriptors, it leads to this file even if another one
        has been put at `path`.
        """
        with self.used() as fd:
            yield descriptor_path(fd) or self.path
            _check_same(fd, self.path, self._identity)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset` on.

        Raises:
            StorageError: somebody wrote to the file since it was opened, or the device failed.
        """
        with storage_errors(self.path), self.used() as fd:
            self._fill(fd, buffer, offset)
            _check_same(fd, self.path, self._identity)

    def _fill(self, fd: int, buffer: memoryview, offset: int) -> None:
        if pread_into(fd, buffer, offset) < len(buffer):
            raise StorageError(f"{self.path}: became shorter while it was read", file=self.path)

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on; errors as for `read_into`."""
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def read_each(self, places: Iterable[tuple[int, int]]) -> list[bytes]:
        """The bytes at many small places, each an offset and a size; errors as for `read_into`.

        As the file is compared with what was opened after the last one only, a place costs a tenth
        of what `read` would take.
        """
        buffers = [(bytearray(size), offset) for offset, size in places]
        with storage_errors(self.path), self.used() as fd:
            for buffer, offset in buffers:
                self._fill(fd, memoryview(buffer), offset)
            _check_same(fd, self.path, self._identity)
        return [bytes(buffer) for buffer, _ in buffers]

    def sha256(self, told: Callable[[int], object] = lambda done: None) -> str:
        """The SHA-256 of all bytes, in hex; errors as for `read_into`.

        `told` is called with the number of bytes read so far.
        """
        digest = hashlib.sha256()
        for begin in range(0, self.size, _HASHED_BYTES):
            end = min(begin + _HASHED_BYTES, self.size)
            digest.update(self.read(begin, end - begin))
            told(end)
        return digest.hexdigest()

    def sniffed(self) -> Known | None:
        """What the file is by its first bytes; None if it is not known."""
        return sniffed(self.read(0, min(self.size, SNIFFED_BYTES)), self.size)

    def read_header(self) -> Header:
        """The file's safetensors header, read and checked."""
        start = self.read(0, min(self.size, SNIFFED_BYTES))
        size = header_size(start, self.size, self.where)
        return parse_header(self.read(LENGTH_BYTES, size), self.size, self.where)

    def stream(self, *, keep: bool) -> None:
        """Say that the file will be read from one end to the other, in long pieces.

        Unless `keep` is set, what `forget` is told of leaves the page cache.
        """
        self._is_streamed, self._is_kept = True, keep
        # The file stays open: another one may have taken its name.
        with self.used() as fd:
            expect_long_reads(fd)
        self._descriptor.reopen_by(self._opener())

    def forget(self, begin: int, end: int) -> None:
        """Say that a range will not be read again soon."""
        if not self._is_kept:
            with self.used() as fd:
                forget_range(fd, begin, end)

    def check_unchanged(self) -> None:
        """Raise a `StorageError` if somebody wrote to the file since it was opened."""
        with self.used() as fd:
            _check_same(fd, self.path, self._identity)


#: Errors of the path itself; any other error is one of the disk or of permissions.
_WRONG = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.ELOOP: "no such file",
    errno.ENXIO: "not a regular file",  # a socket, on Linux
    errno.EOPNOTSUPP: "not a regular file",  # a socket elsewhere
}


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _check_same(fd: int, path: Path, identity: tuple[int, ...]) -> None:
    if _identity(os.fstat(fd)) != identity:
        hint = worded("run again", "read it again")
        raise StorageError(f"{path}: changed while it was read", file=path, hint=hint)


def _open_same(
    path: Path, folder: Path | None, identity: tuple[int, ...], is_streamed: bool
) -> int:
    fd = _open(path, folder)
    try:
        _check_same(fd, path, identity)
    except StorageError:
        os.close(fd)
        raise
    if is_streamed:
        expect_long_reads(fd)
    return fd


def _open(path: Path, folder: Path | None) -> int:
    with path_errors(path, FormatError):
        try:
            if folder is not None:
                return open_inside(folder, path.relative_to(folder).as_posix())
            return os.open(path, READ_FLAGS)
        except OSError as error:
            what = _WRONG.get(error.errno or 0)
            if what is None:
                raise
            if error.errno == errno.ENOENT:
                what = broken_link(path) or what
            raise FormatError(f"{path}: {what}", file=path) from None
