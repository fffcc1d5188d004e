"""A lock file: the commit and the hashes of files that a name stood for, to get the same again.

The Hub's hashes come from where the files come from; only one recorded earlier shows that both have
changed. Several runs may use one lock file at a time: each adds its entries to those in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from loratools.errors import FormatError, HubError, OutputError, listing, shorten
from loratools.hub.names import HubName, is_commit
from loratools.hub.repository import Repository
from loratools.io.failures import path_errors
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.io.json import encode_json
from loratools.io.missing import no_such_folder
from loratools.io.small import only_one_in, replace_text

_VERSION = 1


@final
@dataclass(frozen=True)
class Locked:
    """A repository's commit, and by path the SHA-256 of each file that was fetched from it."""

    commit: str
    files: Mapping[str, str]


@final
@dataclass
class Lock:
    """The lock file at `path`; one that does not exist is empty.

    `repositories` has the entries that were read from it; `used` has the entries for this run's
    repositories, read or new.
    """

    path: Path
    repositories: Mapping[str, Locked] = field(default_factory=dict)
    used: dict[str, Locked] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Lock":
        """Read the lock file at `path`.

        Raises:
            FormatError: it is not a lock file of this version.
            OutputError: no file can be made at this path.
            StorageError: it cannot be read.
        """
        return cls(path, _read(path))

    def pinned(self, name: HubName) -> HubName:
        """`name` at the locked commit of its repository; unchanged if the lock has none.

        Raises:
            HubError: `name` asks for another commit.
        """
        locked = self.repositories.get(name.repo)
        if locked is None:
            return name
        if is_commit(name.revision) and name.revision != locked.commit:
            raise HubError(
                f"{self.path}: has {name.repo} at {locked.commit}, not at {name.revision}",
                hint="take it out of the file to move on",
            )
        return HubName(name.repo, locked.commit, name.path)

    def check(self, repository: Repository, digests: Mapping[str, str]) -> None:
        """Compare files' SHA-256, by path, with the lock; a new repository is added to `used`.

        Raises:
            HubError: a file is missing, is not in the repository's entry, or has other bytes; those
                are deleted from the cache.
        """
        new = Locked(repository.commit, dict(digests))
        locked = self.used.setdefault(repository.repo, self.repositories.get(repository.repo, new))
        for found, known, what in (
            (digests, locked.files, f"not in {self.path}"),
            (locked.files, digests, f"in {self.path}, and not in what was asked for"),
        ):
            if other := [path for path in found if path not in known]:
                raise HubError(
                    f"{repository.name}: {listing(other)} {what}",
                    hint=f"take {repository.repo} out of it to move on",
                )
        self.check_bytes(repository, digests)

    def check_bytes(self, repository: Repository, digests: Mapping[str, str]) -> None:
        """Compare some files' SHA-256, by path, with those that the lock has of them.

        Raises:
            HubError: a file has other bytes; those are deleted from the cache.
        """
        locked = self.used.get(repository.repo, self.repositories.get(repository.repo))
        known = {} if locked is None else locked.files
        changed = [path for path in digests if digests[path] != known.get(path, digests[path])]
        if changed:
            repository.discard(changed)
            first = changed[0]
            raise HubError(
                f"{repository.name}: other bytes than in {self.path}, deleted: {listing(changed)}: "
                f"{shorten(first)} has the SHA-256 {digests[first]}, and {known[first]} "
                f"there"
            )

    def write(self) -> None:
        """Add `used` to the entries that are now in the file, where other runs may have added some.

        Raises:
            HubError: another run has recorded another commit or other bytes of a repository.
            StorageError: the file cannot be written, or other runs lock it for too long.
        """
        with only_one_in(self.path.parent):
            noted = _read(self.path)
            for repo, locked in self.used.items():
                if noted.get(repo, locked) != locked:
                    raise HubError(
                        f"{self.path}: another run has noted {shorten(repo)} at "
                        f"{noted[repo].commit} meanwhile, and this one had it at {locked.commit}",
                        hint="run again",
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
    """The entries of a lock file, by repository; empty where there is no file."""
    with path_errors(path, OutputError):
        if not path.exists():
            if not path.parent.is_dir():
                raise no_such_folder(path.parent)
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
