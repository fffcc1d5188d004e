"""All or nothing: an output appears complete and durable under its name, or not at all.

It is made in one sibling folder of a fixed name, `.<name>.loratools-partial`, and renamed when
every file in it is on disk. A kill can leave that folder, and the next run on the same output
takes it over; a lock on it keeps a second run out while the first is alive.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

from loratools.errors import OutputError, StorageError, storage_errors
from loratools.io.file import InputFile
from loratools.io.platform import copy_range, exchange, lock_folder, rename_new, sync_folder


@final
class Staging:
    """A folder in the making: files are put into `folder`, then `publish` gives it its name."""

    def __init__(self, output: Path, folder: Path, *, is_folder: bool, overwrite: bool) -> None:
        self.output = output
        self.folder = folder
        self._is_folder = is_folder
        self._overwrite = overwrite

    def write_file(self, name: str, data: bytes) -> None:
        """A small file, made durable."""
        path = self._parent(name) / Path(name).name
        with storage_errors(path), path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def copy_file(self, name: str, source: Path) -> None:
        """A copy of a file, made durable; its permissions are those of a new file."""
        original = InputFile(source)
        path = self._parent(name) / Path(name).name
        with storage_errors(path), path.open("xb") as file:
            copied = copy_range(original.fd, 0, file.fileno(), 0, original.size)
            if copied != original.size:
                raise StorageError(f"{source}: became shorter while it was read")
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Give the finished output its name, in one step.

        Raises:
            OutputError: something of that name has appeared meanwhile.
            StorageError: the file system failed; the old content, if any, is in place.
        """
        made = self.folder if self._is_folder else self.folder / self.output.name
        with storage_errors(self.output):
            for folder, _, _ in os.walk(self.folder, topdown=False):
                sync_folder(Path(folder))
            if self._overwrite and os.path.lexists(self.output):
                exchange(made, self.output)
            else:
                rename_new(made, self.output)
            sync_folder(self.output.parent)

    def _parent(self, name: str) -> Path:
        parent = self.folder / Path(name).parent
        with storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
        return parent


@contextmanager
def staged(output: Path, *, is_folder: bool, overwrite: bool) -> Iterator[Staging]:
    """A staging folder for `output`; whatever happens inside, it is gone afterwards.

    Raises:
        StorageError: another run is at work on the same output, or the folder cannot be made.
    """
    folder = partial_path(output)
    with storage_errors(folder):
        lock = _claim(folder)
    try:
        yield Staging(output, folder, is_folder=is_folder, overwrite=overwrite)
    finally:
        # After an exchange this holds the old content; after a rename it is gone.
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def partial_path(output: Path) -> Path:
    """Where an output is made."""
    return output.with_name(f".{output.name}.loratools-partial")


def check_output(
    output: Path, inputs: Sequence[Path], *, needed_bytes: int, overwrite: bool
) -> None:
    """Refuse, before anything is written, an output that cannot or must not be there.

    Raises:
        OutputError: it exists, it is an input or lies inside one, or it would not fit.
        StorageError: its parent is no folder.
    """
    parent = output.parent
    if not parent.is_dir():
        raise StorageError(f"{parent}: no such folder")
    for source in inputs:
        _check_apart(output, source)
    if os.path.lexists(output):
        if not overwrite:
            raise OutputError(f"{output}: exists already; use --overwrite to replace it")
        _check_replaceable(output)
    free = shutil.disk_usage(parent).free
    if needed_bytes > free:
        raise StorageError(
            f"{parent}: {needed_bytes} bytes are needed and {free} are free on that file system"
        )


def _check_apart(output: Path, source: Path) -> None:
    """Compare files, not spellings: links and mounts give one file many names."""
    ancestor = output
    while not ancestor.exists():
        ancestor = ancestor.parent
    for folder in (ancestor, *ancestor.resolve().parents):
        if source.exists() and folder.samefile(source):
            relation = "is" if folder == ancestor == output else "lies inside"
            raise OutputError(f"{output}: {relation} the input {source}; name another output")
    if output.is_dir() and source.resolve().is_relative_to(output.resolve()):
        raise OutputError(f"{output}: holds the input {source}; name another output")


def _check_replaceable(output: Path) -> None:
    """Only what looks like an earlier output is ever replaced."""
    if output.is_symlink():
        raise OutputError(f"{output}: a link; name the folder or file itself")
    if not output.is_dir():
        return
    entries = list(output.iterdir())
    if entries and not any(entry.suffix == ".safetensors" for entry in entries):
        raise OutputError(f"{output}: a folder without safetensors files is not replaced")


def _claim(folder: Path) -> int | None:
    """Make the folder, or take over what a killed run left; the descriptor that holds its lock."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = lock_folder(folder)
        except BlockingIOError as error:
            raise StorageError(f"{folder}: another run is writing this output") from error
        # The run that held the lock may have renamed or removed the folder before letting go.
        if lock is None or _is_open_as(folder, lock):
            break
        os.close(lock)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    return lock


def _is_open_as(folder: Path, fd: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
