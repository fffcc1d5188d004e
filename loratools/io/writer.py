"""A safetensors file written by position: its layout is known before its first byte.

Tensors, and rows of tensors, can be written in any order and by any number of threads or
processes, each to its own bytes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

from loratools.errors import StorageError, storage_errors
from loratools.io.descriptors import Descriptor
from loratools.io.dtypes import nbytes
from loratools.io.file import InputFile
from loratools.io.header import TensorInfo, encode_header
from loratools.io.platform import copy_range, pwrite_all, start_writeback


@final
@dataclass(frozen=True)
class Layout:
    """The bytes of a file: its encoded header, and where each tensor will lie."""

    header: bytes
    tensors: Mapping[str, TensorInfo]
    size: int


def lay_out(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> Layout:
    """The layout of a file that holds `(name, dtype, shape)` in this order."""
    header = encode_header(tensors, metadata)
    position = len(header)
    placed: dict[str, TensorInfo] = {}
    for name, dtype, shape in tensors:
        end = position + nbytes(dtype, shape)
        placed[name] = TensorInfo(name, dtype, shape, position, end)
        position = end
    return Layout(header, placed, position)


@final
class OutputFile:
    """A new file with room for its whole layout.

    It can be pickled; its copy opens the same file again when it is first written to.

    Raises:
        StorageError: the file cannot be created or written.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.layout = layout
        with storage_errors(path):
            # 0o666 less the umask, as for any file that a person makes.
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _O_BINARY, 0o666)
            self._inode = os.fstat(fd).st_ino
            self._descriptor = self._reopened(fd)
            with self._descriptor.used() as fd:
                os.ftruncate(fd, layout.size)
        self._write(memoryview(layout.header), 0)

    def _reopened(self, fd: int = -1) -> Descriptor:
        return Descriptor(partial(_open_same, self.path, self._inode), fd)

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__ | {"path": self.path.absolute()}
        del state["_descriptor"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        # Not opened by unpickling: an error there would break a whole pool of processes.
        self.__dict__.update(state)
        self._descriptor = self._reopened()

    def write_header(self, layout: Layout) -> None:
        """Overwrite the header with that of `layout`, which has other metadata of equal length."""
        assert len(layout.header) == len(self.layout.header)
        self._write(memoryview(layout.header), 0)

    def write(self, name: str, offset: int, data: memoryview) -> None:
        """Write `data` into a tensor, `offset` bytes after its beginning."""
        info = self.layout.tensors[name]
        assert offset + len(data) <= info.nbytes, name
        self._write(data, info.begin + offset)

    def write_from(self, name: str, data: memoryview) -> None:
        """Write `data` to a tensor, and to the tensors that follow if it is longer than that."""
        info = self.layout.tensors[name]
        assert info.begin + len(data) <= self.layout.size, name
        self._write(data, info.begin)

    def copy(self, source: InputFile, begin: int, offset: int, size: int) -> None:
        """Copy `size` bytes of another file, in the kernel, to the position `offset`.

        Raises:
            StorageError: the source has become shorter, or the disk is full.
        """
        with storage_errors(self.path), source.used() as original, self._descriptor.used() as fd:
            if copy_range(original, begin, fd, offset, size) != size:
                raise StorageError(f"{source.path}: became shorter while it was read")
            start_writeback(fd, offset, size)

    def start_writeback(self, name: str, offset: int, size: int) -> None:
        """Ask the kernel to begin storing bytes of a tensor that have been written."""
        with self._descriptor.used() as fd:
            start_writeback(fd, self.layout.tensors[name].begin + offset, size)

    def sync(self) -> None:
        """Make the bytes durable. A failure is final: the kernel may have dropped them.

        This includes bytes written before the file was closed and opened again: Linux reports an
        error that nobody has seen to the next process that opens the file.
        """
        with storage_errors(self.path), self._descriptor.used() as fd:
            os.fsync(fd)

    def close(self) -> None:
        """Close the descriptor; a later use would open the file again."""
        # The old one closes its file when it is collected, which is now.
        self._descriptor = self._reopened()

    def _write(self, data: memoryview, offset: int) -> None:
        with storage_errors(self.path), self._descriptor.used() as fd:
            pwrite_all(fd, data, offset)


def _open_same(path: Path, inode: int) -> int:
    fd = os.open(path, os.O_RDWR | _O_BINARY)
    if os.fstat(fd).st_ino != inode:
        os.close(fd)
        raise StorageError(f"{path}: another run has begun to write this output")
    return fd


_O_BINARY = getattr(os, "O_BINARY", 0)
