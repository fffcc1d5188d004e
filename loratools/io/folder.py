"""A folder of files by their names, on this disk or elsewhere; and a place in it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, final

from loratools.errors import FormatError
from loratools.io.file import InputFile
from loratools.io.inside import entries
from loratools.io.json import parse_json_object

MAX_JSON_BYTES = 100_000_000


class Folder(Protocol):
    """Files by their names."""

    @property
    def where(self) -> str:
        """What messages and reports call it."""
        ...

    @property
    def path(self) -> Path | None:
        """Where it lies on this disk; None where it is elsewhere."""
        ...

    def names(self) -> tuple[str, ...]:
        """The names of its files, sorted."""
        ...

    def all_names(self, *, depth: int | None = None) -> tuple[str, ...]:
        """The paths of all files in it and in its folders, sorted.

        With a `depth`, only of those that are at most so many folders down.

        Raises:
            StorageError: a folder inside cannot be read.
        """
        ...

    def folders_with(self, name: str) -> tuple[str, ...]:
        """The names of the folders inside that have a file of this name, sorted."""
        ...

    def open(self, name: str) -> InputFile:
        """One of its files.

        Raises:
            FormatError: there is none of that name.
            StorageError: it cannot be read.
        """
        ...

    def here(self, wanted: "Callable[[Folder], Iterable[str]]") -> "LocalFolder":
        """The folder on this disk, with at least the files that `wanted` chooses from it.

        Raises:
            HubError, NetworkError: they cannot be fetched.
        """
        ...


@final
@dataclass(frozen=True)
class LocalFolder:
    """A folder on this disk, as it was when it was first listed; `where` is another name for it."""

    path: Path
    where: str
    _listed: dict[int | None, tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def names(self) -> tuple[str, ...]:
        """The names of its files, sorted; of links too, and of pipes, which `open` refuses."""
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.path.iterdir() if not path.is_dir()))

    def all_names(self, *, depth: int | None = None) -> tuple[str, ...]:
        """The paths of all files in it and in its folders, sorted; of links too, and of pipes."""
        if depth not in self._listed:
            self._listed[depth] = tuple(entries(self.path, depth))
        return self._listed[depth]

    def folders_with(self, name: str) -> tuple[str, ...]:
        """The names of the folders inside that have a file of this name, sorted."""
        return tuple(sorted(p.name for p in self.path.iterdir() if (p / name).exists()))

    def open(self, name: str) -> InputFile:
        """One of its files."""
        return InputFile(self.path / name)

    def here(self, wanted: Callable[[Folder], Iterable[str]]) -> "LocalFolder":
        """Itself: all that it has is on this disk."""
        return self


@final
@dataclass(frozen=True)
class Place:
    """What a name leads to: a folder, and the file in it that was named; None where none was.

    `where` is what messages and reports call it.
    """

    folder: Folder
    file: str | None
    where: str


def place_here(path: Path) -> Place:
    """The place that a path of this disk leads to, whether there is anything or not."""
    if path.is_dir():
        return Place(LocalFolder(path, str(path)), None, str(path))
    return Place(LocalFolder(path.parent, str(path.parent)), path.name, str(path))


def read_json(file: InputFile) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FormatError: it is not a JSON object.
        StorageError: it cannot be read.
    """
    check_json_size(file.size, file.where)
    return parse_json_object(file.read(0, file.size), file.where)


def check_json_size(size: int, where: str) -> None:
    """Refuse a JSON file that is too large to be read, or to be fetched to be read.

    Raises:
        FormatError: it has more than 100 MB.
    """
    if size > MAX_JSON_BYTES:
        raise FormatError(f"{where}: {size} bytes are too many for a JSON file")
