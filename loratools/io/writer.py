"""A safetensors file written by position: its layout is known before its first byte.

Tensors, and rows of tensors, can be written in any order and by any number of threads or
processes, each to its own bytes.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

from loratools.errors import StorageError
from loratools.io.clones import clone_range
from loratools.io.descriptors import Descriptor
from loratools.io.direct import (
    PIECE_BYTES,
    buffer_for,
    direct_part,
    incomplete,
    least_part,
    with_lead,
    write_direct,
)
from loratools.io.dtypes import nbytes
from loratools.io.failures import storage_errors
from loratools.io.file import InputFile
from loratools.io.header import LENGTH_BYTES, TensorInfo, encode_header
from loratools.io.platform import copy_range, pwrite_all, reserve_range, start_writeback


@final
@dataclass(frozen=True)
class Layout:
    """The bytes of a file: its encoded header, and where each tensor will lie.

    The keys of `tensors` may have a prefix that the names in the file lack; see `prefixed`.
    """

    header: bytes
    tensors: Mapping[str, TensorInfo]
    size: int

    def padded(self, count: int) -> "Layout":
        """The same tensors behind a header that ends in `count` more spaces."""
        text = self.header[LENGTH_BYTES:] + b" " * count
        tensors = {
            name: info._replace(begin=info.begin + count, end=info.end + count)
            for name, info in self.tensors.items()
        }
        return Layout(len(text).to_bytes(LENGTH_BYTES, "little") + text, tensors, self.size + count)

    def prefixed(self, prefix: str) -> "Layout":
        """The same file, whose tensors are asked for by names with this prefix."""
        return replace(self, tensors={f"{prefix}{n}": info for n, info in self.tensors.items()})


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
            self._least_direct = least_part(fd, layout.size)
            self._open_again(fd)
            with self._descriptor.used() as fd:
                os.ftruncate(fd, layout.size)
        self._write(memoryview(layout.header), 0)

    def _open_again(self, fd: int = -1) -> None:
        """Open the file when it is next used; `fd` is its descriptor if it is open already."""
        self._descriptor = Descriptor(partial(_open_same, self.path, self._inode, 0), fd)
        direct = partial(_open_same, self.path, self._inode, getattr(os, "O_DIRECT", 0))
        self._direct_descriptor = Descriptor(direct)

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__ | {"path": self.path.absolute()}
        del state["_descriptor"], state["_direct_descriptor"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        # Not opened by unpickling: an error there would break a whole pool of processes.
        self.__dict__.update(state)
        self._open_again()

    @property
    def is_direct(self) -> bool:
        """Whether large parts are written past the page cache, so writing waits for the disk."""
        return self._least_direct is not None

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

    def writing(self, name: str, offset: int, size: int) -> "Blocks":
        """Write `size` bytes of a tensor from `offset` on, block by block."""
        position = self.layout.tensors[name].begin + offset
        self._reserve(position, size)
        return Blocks(self, position)

    def copy(self, source: InputFile, begin: int, offset: int, size: int) -> None:
        """Copy `size` bytes of another file to the position `offset`, or clone them.

        Raises:
            StorageError: the source has become shorter, or the disk is full.
        """
        with storage_errors(self.path), source.used() as original, self._descriptor.used() as fd:
            if not self.is_direct:
                if copy_range(original, begin, fd, offset, size) != size:
                    raise StorageError(
                        f"{source.path}: became shorter while it was read", file=source.path
                    )
                start_writeback(fd, offset, size)
                return
            first, last = clone_range(original, begin, fd, offset, size)
        self._copy_direct(source, begin, offset, first)
        self._copy_direct(source, begin + last, offset + last, size - last)

    def _reserve(self, position: int, size: int) -> None:
        if self.is_direct:
            with self._descriptor.used() as fd:
                reserve_range(fd, position, size)

    def start_writeback(self, name: str, offset: int, size: int) -> None:
        """Ask the kernel to begin storing bytes of a tensor that are in the page cache."""
        if self.is_direct:
            return
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
        # The old ones close their files when they are collected, which is now.
        self._open_again()

    def _write(self, data: memoryview, offset: int) -> None:
        """Write the largest part of `data` past the page cache if that is of use, else nothing."""
        least = self._least_direct
        begin, end = (0, 0) if least is None else direct_part(offset, len(data), least)
        with storage_errors(self.path):
            stored = begin + self._write_direct(data[begin:end], offset + begin)
            with self._descriptor.used() as fd:
                pwrite_all(fd, data[:begin], offset)
                pwrite_all(fd, data[stored:], offset + stored)

    def _write_direct(self, data: memoryview, offset: int) -> int:
        """Write data past the page cache; return the bytes written, fewer than all if refused."""
        if not data:
            return 0
        try:
            with self._direct_descriptor.used() as fd:
                stored = write_direct(fd, data, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system does not open files in this way
                raise
            stored = 0
        if stored < len(data):
            self._least_direct = None
        return stored

    def _copy_direct(self, source: InputFile, begin: int, offset: int, size: int) -> None:
        """Copy a range piece by piece, each but the first from an aligned position on."""
        self._reserve(offset, size)
        done = 0
        while done < size:
            count = min(PIECE_BYTES - (offset + done) % PIECE_BYTES, size - done)
            data = buffer_for(offset + done, count)
            source.read_into(data, begin + done)
            self._write(data, offset + done)
            # Now and not at the end: several threads copy, and memory may be small.
            source.forget(begin + done, begin + done + count)
            done += count


@final
class Blocks:
    """Blocks that follow each other in a file, of which all but the two ends are written directly.

    What does not fill a unit of the disk is kept and written with the next block. By itself it
    would go through the page cache, and wait for the direct writes of all other threads.
    """

    def __init__(self, output: OutputFile, position: int) -> None:
        self._output = output
        self._position = position
        self._kept = b""

    def write(self, data: memoryview) -> None:
        """Write the next block; its last bytes may only be written with the one after it."""
        whole = with_lead(self._kept, data) if self._kept else data
        if whole is None:  # the block is not where its lead fits
            self.end()
            whole = data
        position = self._position - (len(whole) - len(data))
        kept = incomplete(position, len(whole)) if self._output.is_direct else 0
        self._output._write(whole[: len(whole) - kept], position)
        self._kept = bytes(whole[len(whole) - kept :])
        self._position += len(data)

    def end(self) -> None:
        """Write what is left of the last block."""
        self._output._write(memoryview(self._kept), self._position - len(self._kept))


def _open_same(path: Path, inode: int, flags: int) -> int:
    fd = os.open(path, os.O_RDWR | _O_BINARY | flags)
    if os.fstat(fd).st_ino != inode:
        os.close(fd)
        raise StorageError(f"{path}: another run has begun to write this output", file=path)
    return fd


_O_BINARY = getattr(os, "O_BINARY", 0)
