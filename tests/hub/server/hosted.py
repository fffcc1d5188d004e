"""A repository on the Hub: its git repository, its large files, and who may see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.hub.server.accounts import Caller
from tests.hub.server.answers import no_entry, no_revision
from tests.hub.server.lfs import ATTRIBUTES, Pointer, Store, is_large
from tests.hub.server.repository import Repository

Gated = Literal["auto", "manual", False]


@dataclass(frozen=True)
class File:
    """A file of a commit.

    `oid` is the id of the blob and `stored` its size in bytes. For a large file the blob is a
    pointer, and `lfs` is that pointer.
    """

    path: str
    oid: str
    stored: int
    lfs: Pointer | None

    @property
    def size(self) -> int:
        return self.stored if self.lfs is None else self.lfs.size

    @property
    def etag(self) -> str:
        return self.oid if self.lfs is None else self.lfs.sha256


@dataclass
class PullRequest:
    """A pull request: a discussion with commits on a ref of its own."""

    number: int
    title: str
    description: str
    author: str
    base: str  # the commit on main it began from
    status: str  # draft, open, merged or closed
    time: int

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.number}"


@dataclass
class Hosted:
    """A model repository on the Hub."""

    id: str
    folder: Path
    private: bool = False
    gated: Gated = False
    granted: set[str] = field(default_factory=set)  # users let through the gate
    pulls: list[PullRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.git = Repository(self.folder)
        self.store = Store(self.folder / "lfs")
        self.known: dict[tuple[str, str], File] = {}

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    def shown_to(self, caller: Caller | None) -> bool:
        return not self.private or (caller is not None and caller.is_in(self.namespace))

    def open_to(self, caller: Caller | None) -> bool:
        """Whether the caller may download the files: always, if the repository is not gated."""
        if not self.gated:
            return True
        return caller is not None and (caller.is_in(self.namespace) or caller.name in self.granted)

    def resolve(self, revision: str) -> str:
        """The commit of a revision.

        Raises:
            RefusedError: there is no such revision.
        """
        commit = self.git.resolve(revision)
        if commit is None:
            raise no_revision(revision)
        return commit

    def file(self, path: str, oid: str) -> File:
        if (path, oid) not in self.known:
            blob = self.git.objects.read(oid)
            self.known[path, oid] = File(path, oid, len(blob), Pointer.parse(blob))
        return self.known[path, oid]

    def files(self, commit: str) -> dict[str, File]:
        return {path: self.file(path, oid) for path, oid in self.git.files(commit).items()}

    def find(self, path: str, commit: str) -> File:
        """The file of a commit at a path.

        Raises:
            RefusedError: there is no such file.
        """
        oid = self.git.files(commit).get(path)
        if oid is None:
            raise no_entry(path, commit)
        return self.file(path, oid)

    def content(self, file: File) -> bytes:
        if file.lfs is None:
            return self.git.objects.read(file.oid)
        return self.store.path(file.lfs.sha256).read_bytes()

    def attributes(self, commit: str | None) -> str:
        """The .gitattributes of a commit, which list the paths of large files."""
        files = {} if commit is None else self.git.files(commit)
        oid = files.get(".gitattributes")
        return ATTRIBUTES if oid is None else self.git.objects.read(oid).decode()

    def blobs(self, contents: Mapping[str, bytes], attributes: str) -> dict[str, str]:
        """Store files, large ones as pointers, and return the blob id of each path."""
        stored = {}
        for path, data in contents.items():
            large = is_large(path, len(data), attributes)
            blob = bytes(self.store.add(data)) if large else data
            stored[path] = self.git.objects.write("blob", blob)
        return stored
