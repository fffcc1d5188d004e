"""A lock file: which commit and which bytes a name stood for, so that they can be had again.

Every hash that the Hub lists comes from the Hub; only one that was noted before tells when it lies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from loratools.errors import FormatError, HubError, StorageError, listing, shorten
from loratools.hub.names import HubName, is_commit
from loratools.hub.repository import Repository
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.io.json import encode_json
from loratools.io.small import replace_text

_VERSION = 1


@final
@dataclass(frozen=True)
class Locked:
    """A repository at a commit, and the SHA-256 of each file that was fetched from it."""

    commit: str
    files: Mapping[str, str]


@final
@dataclass
class Lock:
    """The lock file at `path`; one that does not exist is empty."""

    path: Path
    repositories: dict[str, Locked] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Lock":
        """What the file says.

        Raises:
            FormatError: it is not such a file.
            StorageError: it cannot be read.
        """
        if not path.exists():
            if not path.parent.is_dir():
                raise StorageError(f"{path.parent}: no such folder")
            return cls(path)
        fields = read_json(InputFile(path))
        found = fields.get("repositories")
        if fields.get("version") != _VERSION or not isinstance(found, dict):
            raise FormatError(f"{path}: not a lock file of version {_VERSION}")
        return cls(path, {repo: _locked(repo, entry, path) for repo, entry in found.items()})

    def pinned(self, name: HubName) -> HubName:
        """The name at the commit that is locked; as it is, where none is.

        Raises:
            HubError: it names another commit.
        """
        locked = self.repositories.get(name.repo)
        if locked is None:
            return name
        if is_commit(name.revision) and name.revision != locked.commit:
            raise HubError(
                f"{self.path}: has {name.repo} at {locked.commit}, not at {name.revision}; take "
                f"it out of the file to move on"
            )
        return HubName(name.repo, locked.commit, name.path)

    def check(self, repository: Repository, digests: Mapping[str, str]) -> None:
        """Hold files, by their SHA-256, against the lock; those of a new repository are noted.

        Raises:
            HubError: a file has other bytes, is not in the lock of its repository, or is missing.
        """
        locked = self.repositories.setdefault(
            repository.repo, Locked(repository.commit, dict(digests))
        )
        for found, known, what in (
            (digests, locked.files, f"not in {self.path}"),
            (locked.files, digests, f"in {self.path}, and not in what was asked for"),
        ):
            if other := [path for path in found if path not in known]:
                raise HubError(
                    f"{repository.name}: {listing(other)} {what}; take {repository.repo} out of "
                    f"it to move on"
                )
        changed = [path for path in digests if digests[path] != locked.files[path]]
        if changed:
            repository.discard(changed)
            first = changed[0]
            raise HubError(
                f"{repository.name}: other bytes than in {self.path}, deleted: {listing(changed)}; "
                f"{shorten(first)} has the SHA-256 {digests[first]}, and {locked.files[first]} "
                f"there"
            )

    def write(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        repositories = {
            repo: {"commit": locked.commit, "files": dict(sorted(locked.files.items()))}
            for repo, locked in sorted(self.repositories.items())
        }
        text = encode_json({"version": _VERSION, "repositories": repositories})
        replace_text(self.path, text.decode())


def _locked(repo: str, entry: Any, path: Path) -> Locked:
    commit, files = (
        (entry.get("commit"), entry.get("files")) if isinstance(entry, dict) else 2 * (0,)
    )
    if (
        not isinstance(commit, str)
        or not is_commit(commit)
        or not isinstance(files, dict)
        or not all(isinstance(digest, str) and len(digest) == 64 for digest in files.values())
    ):
        raise FormatError(f"{path}: {shorten(repo)}: not a commit and SHA-256 hashes of files")
    return Locked(commit, files)
