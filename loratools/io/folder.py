"""Folders of files, on this disk or elsewhere, and places in them."""

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, final

from loratools.errors import FormatError
from loratools.io.file import InputFile
from loratools.io.inside import entries
from loratools.io.json import parse_json_object
from loratools.io.missing import refuse_missing

MAX_JSON_BYTES = 100_000_000
#: macOS puts a file of its own beside each one that it copies to another file system.
_OF_MACOS = re.compile(r"(?:^|/)\._[^/]*$")


class Folder(Protocol):
    """A folder whose files can be listed, and opened by their names.

    The files `._NAME`, which macOS makes beside others, are in no list but their own: none is what
    its name says.
    """

    @property
    def where(self) -> str:
        """The folder's name in messages and reports."""
        ...

    @property
    def path(self) -> Path | None:
        """The folder's path on this disk; None if it is elsewhere."""
        ...

    def names(self) -> tuple[str, ...]:
        """The names of the files directly in the folder, sorted."""
        ...

    def all_names(self, *, depth: int | None = None) -> tuple[str, ...]:
        """The paths of all files in the folder and its subfolders, sorted.

        With a `depth`, only the files that are at most so many folders down.

        Raises:
            StorageError: a subfolder cannot be read.
        """
        ...

    def of_macos(self) -> tuple[str, ...]:
        """The names of the files that macOS has put directly into the folder, sorted."""
        ...

    def folders_with(self, name: str) -> tuple[str, ...]:
        """The names of the direct subfolders that have a file of this name, sorted."""
        ...

    def folders(self) -> tuple[str, ...]:
        """The names of the direct subfolders, sorted; links to folders are among them."""
        ...

    def subfolder(self, name: str) -> "Folder":
        """The direct subfolder of this name, which must be there."""
        ...

    def open(self, name: str) -> InputFile:
        """Open a file in the folder.

        Raises:
            FormatError: there is no file of this name.
            StorageError: the file cannot be read.
        """
        ...

    def here(self, wanted: "Callable[[Folder], Iterable[str]]") -> "LocalFolder":
        """The folder on this disk, with at least the files that `wanted` chooses from it.

        Raises:
            HubError, NetworkError: the files cannot be fetched.
        """
        ...


def own_files(names: Iterable[str]) -> tuple[str, ...]:
    """The names without those of files that macOS makes beside others.

    >>> own_files(["model.safetensors", "._model.safetensors", "unet/._config.json"])
    ('model.safetensors',)
    """
    return tuple(name for name in names if not is_of_macos(name))


def is_of_macos(path: str) -> bool:
    """Whether a file is one that macOS has made beside another."""
    return _OF_MACOS.search(path) is not None


@final
@dataclass(frozen=True)
class LocalFolder:
    """A folder on this disk, as it was when first listed; `where` is its name in messages."""

    path: Path
    where: str
    _listed: dict[int | None, tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def names(self) -> tuple[str, ...]:
        """The names of the files directly in the folder, sorted.

        Links are among them, and so are pipes, which `open` refuses.
        """
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return own_files(self._files)

    def of_macos(self) -> tuple[str, ...]:
        """The names of the files that macOS has put directly into the folder, sorted."""
        return tuple(name for name in self._files if is_of_macos(name))

    @cached_property
    def _files(self) -> tuple[str, ...]:
        return self._listed_here(folders=False)

    def _listed_here(self, *, folders: bool) -> tuple[str, ...]:
        with os.scandir(self.path) as scanned:
            return tuple(sorted(entry.name for entry in scanned if entry.is_dir() == folders))

    def all_names(self, *, depth: int | None = None) -> tuple[str, ...]:
        """The paths of all files in the folder and its subfolders, links and pipes too, sorted."""
        if depth not in self._listed:
            self._listed[depth] = own_files(entries(self.path, depth))
        return self._listed[depth]

    def folders_with(self, name: str) -> tuple[str, ...]:
        """The names of the direct subfolders that have a file of this name, sorted."""
        return tuple(sorted(p.name for p in self.path.iterdir() if (p / name).exists()))

    def folders(self) -> tuple[str, ...]:
        """The names of the direct subfolders, sorted; links to folders are among them."""
        return own_files(self._listed_here(folders=True))

    def subfolder(self, name: str) -> "LocalFolder":
        """The direct subfolder of this name, which must be there."""
        return LocalFolder(self.path / name, f"{self.where}/{name}")

    def open(self, name: str) -> InputFile:
        """Open a file in the folder; a link is followed."""
        return InputFile(self.path / name)

    def here(self, wanted: Callable[[Folder], Iterable[str]]) -> "LocalFolder":
        """The folder itself, since all its files are on this disk."""
        return self


@final
@dataclass(frozen=True)
class Place:
    """The place that a name leads to: a folder, and the file in it if the name was a file's.

    `where` is the place's name in messages and reports.
    """

    folder: Folder
    file: str | None
    where: str


def place_here(name: str | Path) -> Place:
    """The place of a path on this disk.

    Raises:
        FormatError: there is nothing; the message says what was probably meant.
    """
    refuse_missing(name)
    path = Path(name)
    if path.is_dir():
        return Place(LocalFolder(path, str(path)), None, str(path))
    return Place(LocalFolder(path.parent, str(path.parent)), path.name, str(path))


def name_in(folder: Folder, name: str) -> str:
    """What messages call a file in a folder: its path on this disk, or its name on the Hub."""
    is_path = folder.path is not None and folder.where == str(folder.path)
    return str(folder.path / name) if folder.path and is_path else f"{folder.where}/{name}"


def read_json_in(folder: Folder, name: str) -> dict[str, Any]:
    """The object in a JSON file of a folder, whose errors begin with `name_in`; see `read_json`."""
    return read_json(folder.open(name), name_in(folder, name))


def read_json(file: InputFile, where: str | None = None) -> dict[str, Any]:
    """The object in a JSON file; errors begin with its path, or with `where`.

    Raises:
        FormatError: the file is not a JSON object, or too large; if it is known to be of another
            kind by its first bytes, the message says so.
        StorageError: the file cannot be read.
    """
    where = where or file.where
    try:
        check_json_size(file.size, where)
        return parse_json_object(file.read(0, file.size), where)
    except FormatError as error:
        known = file.sniffed()
        if known is None or known.sort == "text":
            what, advice = error.complaint, error.hint or "repair it, or download it again"
        else:
            what, advice = f"{where}: not JSON but {known.name}", known.advice
        raise FormatError(what, file=where, hint=advice) from error


def check_json_size(size: int, where: str) -> None:
    """Refuse a JSON file that is too large, before it is read or fetched.

    Raises:
        FormatError: the file has more than 100 MB.
    """
    if size > MAX_JSON_BYTES:
        raise FormatError(f"{where}: {size} bytes are too many for a JSON file")
