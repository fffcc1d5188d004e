"""An input file: opened once, read by position, and noticed when it changes under us."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from loratools.errors import FormatError, StorageError, path_errors, storage_errors
from loratools.io.descriptors import Descriptor
from loratools.io.header import LENGTH_BYTES, Header, header_size, parse_header
from loratools.io.inside import READ_FLAGS, open_inside
from loratools.io.platform import descriptor_path, pread_into


class InputFile:
    """A regular file, read with `pread` and never mapped: a truncation is an error, not a SIGBUS.

    It can be pickled, and where it is unpickled it opens the same file again when it is read.
    With `folder`, no link is followed from there to `path`: for what is published or copied.

    Raises:
        FormatError: it does not exist, or is a folder, a pipe or a device; or a link, in `folder`.
        StorageError: it may not be read.
    """

    def __init__(self, path: Path, *, folder: Path | None = None) -> None:
        self.path = path
        self._folder = folder
        fd = _open(path, folder)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise FormatError(f"{path}: not a regular file")
        self.size = status.st_size
        self._identity = _identity(status)
        self._descriptor = self._reopened(fd)

    def _reopened(self, fd: int = -1) -> Descriptor:
        return Descriptor(partial(_open_same, self.path, self._folder, self._identity), fd)

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
        """What messages call it."""
        return str(self.path)

    def used(self) -> AbstractContextManager[int]:
        """The open descriptor in a block, for copies inside the kernel."""
        return self._descriptor.used()

    @contextmanager
    def named(self) -> Iterator[Path]:
        """Where this process finds it in a block, whatever lies at `path` by then; if it can."""
        with self.used() as fd:
            yield descriptor_path(fd) or self.path
            _check_same(fd, self.path, self._identity)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset` on.

        Raises:
            StorageError: somebody wrote to the file since it was opened, or the device failed.
        """
        with storage_errors(self.path), self.used() as fd:
            if pread_into(fd, buffer, offset) < len(buffer):
                raise StorageError(f"{self.path}: became shorter while it was read")
            _check_same(fd, self.path, self._identity)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on."""
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def read_header(self) -> Header:
        """The checked safetensors header."""
        start = self.read(0, min(self.size, LENGTH_BYTES))
        size = header_size(start, self.size, self.where)
        return parse_header(self.read(LENGTH_BYTES, size), self.size, self.where)

    def check_unchanged(self) -> None:
        """Raise a `StorageError` if somebody wrote to the file since it was opened."""
        with self.used() as fd:
            _check_same(fd, self.path, self._identity)


#: What is wrong with a path itself; any other error is one of the disk or of permissions.
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
        raise StorageError(f"{path}: changed while it was read; run again")


def _open_same(path: Path, folder: Path | None, identity: tuple[int, ...]) -> int:
    fd = _open(path, folder)
    try:
        _check_same(fd, path, identity)
    except StorageError:
        os.close(fd)
        raise
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
            raise FormatError(f"{path}: {what}") from None
