"""A folder of a repository, listed without fetching it; files are fetched by their names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from loratools.errors import FormatError, HubError, shorten
from loratools.hub.names import HubFile, HubName
from loratools.hub.remote import RemoteFile
from loratools.hub.repository import Repository, resolve
from loratools.io.file import InputFile
from loratools.io.folder import Folder, LocalFolder, check_json_size, is_of_macos, own_files
from loratools.running.progress import Progress

#: The suffix of files that are read by byte ranges, without fetching them.
_BY_PARTS = ".safetensors"


@final
@dataclass(frozen=True)
class HubFolder:
    """A folder at one commit; `inside` is its path with a trailing slash, empty for the root."""

    repository: Repository
    inside: str

    @property
    def where(self) -> str:
        """The folder's `hf://` name, with the commit."""
        return f"{self.repository.name}/{self.inside}".removesuffix("/")

    @property
    def path(self) -> Path | None:
        """None: the folder is not on this disk."""
        return None

    def names(self) -> tuple[str, ...]:
        """The names of the files directly in the folder, sorted."""
        return tuple(name for name in self.all_names() if "/" not in name)

    def all_names(self, *, depth: int | None = None) -> tuple[str, ...]:
        """The sorted paths of all files in the folder, at most `depth` folders down if given."""
        listed = self._paths()
        return own_files(name for name in listed if depth is None or name.count("/") <= depth)

    def of_macos(self) -> tuple[str, ...]:
        """The names of the files that macOS has put directly into the folder, sorted."""
        return tuple(name for name in self._paths() if "/" not in name and is_of_macos(name))

    def _paths(self) -> list[str]:
        inside = self.inside
        paths = sorted(self.repository.files)
        return [path[len(inside) :] for path in paths if path.startswith(inside)]

    def folders_with(self, name: str) -> tuple[str, ...]:
        """The names of the direct subfolders that have a file of this name, sorted."""
        parts = (path.split("/") for path in self.all_names())
        return tuple(path[0] for path in parts if path[1:] == [name])

    def folders(self) -> tuple[str, ...]:
        """The names of the direct subfolders, sorted."""
        inner = (name.partition("/") for name in self.all_names())
        return tuple(dict.fromkeys(folder for folder, slash, _ in inner if slash))

    def subfolder(self, name: str) -> "HubFolder":
        """The direct subfolder of this name, which must be there."""
        return HubFolder(self.repository, f"{self.inside}{name}/")

    def listed(self, name: str) -> HubFile:
        """The file `name` as the Hub lists it: path, size and hash."""
        return self.repository.files[self.inside + name]

    def open(self, name: str) -> InputFile:
        """Open a file: tensors that are not cached by byte ranges, all else fetched and verified.

        Raises:
            FormatError: there is no such file, or it is a JSON file of more than the limit.
            HubError, NetworkError, StorageError: see `Repository.fetch`.
        """
        path = self.inside + name
        if path not in self.repository.files:
            raise FormatError(f"{self.where}/{shorten(name)}: no such file")
        if name.endswith(_BY_PARTS) and not self.repository.has_here(path):
            return RemoteFile(self.repository, self.repository.files[path])
        if name.endswith(".json"):
            check_json_size(self.repository.files[path].size, f"{self.where}/{name}")
        return InputFile(self.repository.fetch([path])[path])

    def fetch(self, names: Iterable[str], progress: Progress = None) -> LocalFolder:
        """The folder in the cache, with at least these files, each verified."""
        paths = [self.inside + name for name in names]
        found = self.repository.fetch(paths, progress)
        path, local = next(iter(found.items()))
        root = local.parents[path.count("/")]  # the cache's folder of this commit
        return LocalFolder(root / self.inside, self.where)

    def here(self, wanted: Callable[[Folder], Iterable[str]]) -> LocalFolder:
        """The folder in the cache, with at least the files that `wanted` chooses from it."""
        return self.fetch(wanted(self))


def hub_place(name: HubName) -> tuple[HubFolder, str | None]:
    """The folder that a name stands for, at its current commit, and the name's file if it has one.

    Raises:
        HubError, NetworkError: it cannot be resolved or listed, or there is no such path.
    """
    repository = resolve(name)
    if name.path in repository.files:
        parent, _, file = name.path.rpartition("/")
        return HubFolder(repository, f"{parent}/" if parent else ""), file
    folder = HubFolder(repository, f"{name.path}/" if name.path else "")
    if name.path and not folder.all_names():
        raise HubError(f"{repository.name}: has no file or folder {shorten(name.path)}")
    return folder, None
