"""Git's objects, stored loose and compressed as `git` stores them, which can read them."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """An entry of a tree: a file, or a folder, which is another tree."""

    path: str
    oid: str
    is_folder: bool


class Objects:
    """The `objects` folder of a repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, kind: str, data: bytes) -> str:
        oid = object_id(kind, data)
        path = self._path(oid)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(zlib.compress(_framed(kind, data), 1))
        return oid

    def read(self, oid: str) -> bytes:
        return zlib.decompress(self._path(oid).read_bytes()).partition(b"\0")[2]

    def kind(self, oid: str) -> str | None:
        """The type of an object, `blob`, `tree`, `commit` or `tag`; None if it does not exist."""
        path = self._path(oid)
        if not path.is_file():
            return None
        return zlib.decompressobj().decompress(path.read_bytes(), 16).split(b" ")[0].decode()

    def starting_with(self, prefix: str) -> list[str]:
        """The ids of all objects with a prefix of at least four digits."""
        folder, rest = self.folder / prefix[:2], prefix[2:]
        return [prefix[:2] + path.name for path in folder.glob(f"{rest}*")]

    def write_tree(self, files: Mapping[str, str]) -> str:
        """Write the tree of these files, which are blob ids by path, and return its id."""
        folders: dict[str, dict[str, str]] = {}
        lines: list[tuple[bytes, bytes]] = []  # what git sorts by, and the line
        for path, oid in files.items():
            name, slash, rest = path.partition("/")
            if slash:
                folders.setdefault(name, {})[rest] = oid
            else:
                lines.append((name.encode(), _line("100644", name, oid)))
        for name, inside in folders.items():
            line = _line("40000", name, self.write_tree(inside))
            lines.append((name.encode() + b"/", line))
        return self.write("tree", b"".join(line for _, line in sorted(lines)))

    def walk(self, tree: str, folder: str = "") -> Iterator[Entry]:
        """All entries below a tree, in git's order: a folder before its contents."""
        data = self.read(tree)
        while data:
            head, _, rest = data.partition(b"\0")
            mode, name = head.decode().split(" ", 1)
            entry = Entry(folder + name, rest[:20].hex(), mode == "40000")
            data = rest[20:]
            yield entry
            if entry.is_folder:
                yield from self.walk(entry.oid, entry.path + "/")

    def _path(self, oid: str) -> Path:
        return self.folder / oid[:2] / oid[2:]


def object_id(kind: str, data: bytes) -> str:
    return hashlib.sha1(_framed(kind, data)).hexdigest()


def _framed(kind: str, data: bytes) -> bytes:
    return f"{kind} {len(data)}\0".encode() + data


def _line(mode: str, name: str, oid: str) -> bytes:
    return f"{mode} {name}\0".encode() + bytes.fromhex(oid)
