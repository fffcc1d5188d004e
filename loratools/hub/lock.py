"""A lock file: which commit and which bytes a name stood for, so that they can be had again.

Every hash that the Hub lists comes from the Hub; only one that was noted before tells when it lies.
Runs at the same time may note in one file: each adds to what is there when it writes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from loratools.errors import FormatError, HubError, OutputError, listing, path_errors, shorten
from loratools.hub.names import HubName, is_commit
from loratools.hub.repository import Repository
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.io.json import encode_json
from loratools.io.small import only_one_in, replace_text

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
    """The lock file at `path`; one that does not exist is empty.

    `repositories` is what it said when it was read; `used` is what this run was given, be it from
    there or new.
    """

    path: Path
    repositories: Mapping[str, Locked] = field(default_factory=dict)
    used: dict[str, Locked] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Lock":
        """What the file says.

        Raises:
            FormatError: it is not such a file.
            OutputError: it cannot be made there, by its name.
            StorageError: it cannot be read.
        """
        return cls(path, _read(path))

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
        new = Locked(repository.commit, dict(digests))
        locked = self.used.setdefault(repository.repo, self.repositories.get(repository.repo, new))
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
        """Note what was used, beside what others have noted since the file was read.

        Raises:
            HubError: somebody has noted another commit, or other bytes, of the same repository.
            StorageError: it cannot be written, or others do not let go of it.
        """
        with only_one_in(self.path.parent):
            noted = _read(self.path)
            for repo, locked in self.used.items():
                if noted.get(repo, locked) != locked:
                    raise HubError(
                        f"{self.path}: another run has noted {shorten(repo)} at "
                        f"{noted[repo].commit} meanwhile, and this one had it at {locked.commit}; "
                        f"run again"
                    )
            if not noted.keys() >= self.used.keys():
                replace_text(self.path, _text({**noted, **self.used}))


def _text(repositories: Mapping[str, Locked]) -> str:
    entries = {
        repo: {"commit": locked.commit, "files": dict(sorted(locked.files.items()))}
        for repo, locked in sorted(repositories.items())
    }
    return encode_json({"version": _VERSION, "repositories": entries}).decode()


def _read(path: Path) -> dict[str, Locked]:
    """The entries of a lock file by their repositories; none where there is no file."""
    with path_errors(path, OutputError):
        if not path.exists():
            if not path.parent.is_dir():
                raise OutputError(f"{path.parent}: no such folder")
            return {}
    fields = read_json(InputFile(path))
    found = fields.get("repositories")
    if fields.get("version") != _VERSION or not isinstance(found, dict):
        raise FormatError(f"{path}: not a lock file of version {_VERSION}")
    return {repo: _locked(repo, entry, path) for repo, entry in found.items()}


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
