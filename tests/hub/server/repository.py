"""A bare git repository on disk: commits, branches, tags and pull requests' refs."""

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.hub.server.objects import Entry, Objects

CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
UNFIT_NAME = re.compile(r"\.\.|[\x00-\x20~^:?*\[\\\x7f]|@\{|//|^[/.]|/\.|[/.]$|\.lock(/|$)|^$|^@$")


class UnfitNameError(Exception):
    """Git allows no ref of this name."""


class StaleParentError(Exception):
    """The branch has moved away from the parent that the author of a commit expected."""


@dataclass(frozen=True)
class Commit:
    """The contents of a commit object; `time` is in seconds since 1970."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: str
    time: int
    message: str

    @property
    def title(self) -> str:
        return self.message.partition("\n")[0]


class Repository:
    """A bare git repository in a folder: its objects and its refs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Objects(folder / "objects")
        self.lock = threading.RLock()
        for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "HEAD").write_text("ref: refs/heads/main\n")
        (folder / "config").write_text(CONFIG)

    def target(self, ref: str) -> str | None:
        """The id of the object that a full ref such as `refs/heads/main` names, or None."""
        path = self.folder / ref
        if not ref.startswith("refs/") or UNFIT_NAME.search(ref) or not path.is_file():
            return None
        return path.read_text().strip()

    def point(self, ref: str, oid: str) -> None:
        """Create or move a ref.

        Raises:
            UnfitNameError: git does not allow the name, or there are refs below it.
        """
        path = self.folder / ref
        if UNFIT_NAME.search(ref) or path.is_dir():
            raise UnfitNameError(ref)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UnfitNameError(ref) from error
        path.write_text(oid + "\n")

    def drop(self, ref: str) -> None:
        (self.folder / ref).unlink()

    def refs(self, prefix: str) -> dict[str, str]:
        """The names of refs below a prefix such as `refs/heads/`, with the commit of each."""
        folder = self.folder / prefix
        names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        return {name: self._peeled((folder / name).read_text().strip()) for name in names}

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag, a full ref, or an id of at least seven digits, or None."""
        for prefix in ("refs/heads/", "refs/tags/", ""):
            if (oid := self.target(prefix + revision)) is not None:
                return self._peeled(oid)
        if not re.fullmatch("[0-9a-f]{7,40}", revision):
            return None
        found = self.objects.starting_with(revision)
        commits = [oid for oid in found if self.objects.kind(oid) == "commit"]
        return commits[0] if len(commits) == 1 else None

    def commit(
        self,
        ref: str,
        files: Mapping[str, str],
        *,
        expected: str | None,
        author: str,
        message: str,
        time: int,
    ) -> str:
        """Commit exactly these files, which are blob ids by path, to a ref that is at `expected`.

        Raises:
            StaleParentError: the ref is at another commit.
        """
        tree = self.objects.write_tree(files)
        with self.lock:
            if self.target(ref) != expected:
                raise StaleParentError(ref)
            parent = "" if expected is None else f"parent {expected}\n"
            by = f"{author} <{author}@localhost> {time} +0000"
            text = f"tree {tree}\n{parent}author {by}\ncommitter {by}\n\n{message}\n"
            oid = self.objects.write("commit", text.encode())
            self.point(ref, oid)
        return oid

    def tag(self, name: str, commit: str, *, author: str, message: str | None, time: int) -> None:
        """Make a tag, which is annotated if it has a message."""
        oid = commit
        if message is not None:
            by = f"{author} <{author}@localhost> {time} +0000"
            text = f"object {commit}\ntype commit\ntag {name}\ntagger {by}\n\n{message}\n"
            oid = self.objects.write("tag", text.encode())
        self.point(f"refs/tags/{name}", oid)

    def read_commit(self, oid: str) -> Commit:
        head, _, message = self.objects.read(oid).decode().partition("\n\n")
        fields = [line.split(" ", 1) for line in head.splitlines()]
        author = next(value for key, value in fields if key == "author")
        parents = tuple(value for key, value in fields if key == "parent")
        name, seconds = author.partition(" <")[0], int(author.split()[-2])
        return Commit(oid, fields[0][1], parents, name, seconds, message.removesuffix("\n"))

    def history(self, oid: str) -> Iterator[Commit]:
        """A commit and its ancestors, newest first; there are no merge commits here."""
        following: str | None = oid
        while following is not None:
            commit = self.read_commit(following)
            yield commit
            following = commit.parents[0] if commit.parents else None

    def entries(self, commit: str) -> list[Entry]:
        return list(self.objects.walk(self.read_commit(commit).tree))

    def files(self, commit: str) -> dict[str, str]:
        """The blob id of each path in a commit."""
        return {entry.path: entry.oid for entry in self.entries(commit) if not entry.is_folder}

    def _peeled(self, oid: str) -> str:
        if self.objects.kind(oid) != "tag":
            return oid
        return self.objects.read(oid).split(b"\n")[0].decode().removeprefix("object ")
