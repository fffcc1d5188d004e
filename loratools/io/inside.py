"""Files that lie in a folder, opened without following a link out of it.

Whoever filled a folder may have put links into it, to any file of this machine. So a file that is
published, or copied into an output, is opened one component of its path at a time, each relative
to the descriptor of the one before, and none may be a link. The one exception is a snapshot in a
Hub's cache, whose files are links to the cache's own `blobs`.
"""

import os
import re
from pathlib import Path

from loratools.errors import FormatError
from loratools.io.failures import storage_errors

#: The flags to open an input file with.
READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # opening a pipe must not wait for its writer
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOCTTY", 0)
)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_CACHED_REPOSITORY = re.compile(r"(models|datasets|spaces)--")


def open_inside(folder: Path, name: str) -> int:
    """Open a file by its path in a folder, which itself may be a link; return the descriptor.

    Raises:
        FormatError: a component of the path is a link.
        OSError: the file cannot be opened.
    """
    try:
        return _open_plain(folder, name)
    except OSError:
        # Links are looked for only after a failure: a look beforehand misses one put there later.
        link = _first_link(folder, name)
        if link is None:
            raise
    blob = _cached_blob(folder, name)
    if blob is None:
        raise FormatError(
            f"{link}: a link, and what it leads to may not be meant",
            hint="put the file itself in its place",
        )
    return _open_plain(blob.parent.parent, f"{blob.parent.name}/{blob.name}")


def entries(folder: Path, depth: int | None = None) -> list[str]:
    """The paths of all that is in a folder and its subfolders, except the folders; sorted.

    Links are entries and are not followed, whatever they lead to. With a `depth`, only entries that
    are at most so many folders down.

    Raises:
        StorageError: one of the folders cannot be read.
    """
    found = []
    folders = [""]
    while folders:
        inside = folders.pop()
        with storage_errors(folder / inside), os.scandir(folder / inside) as scanned:
            for entry in scanned:
                if not entry.is_dir(follow_symlinks=False):
                    found.append(inside + entry.name)
                elif depth is None or inside.count("/") < depth:
                    folders.append(f"{inside}{entry.name}/")
    return sorted(found)


def _open_plain(folder: Path, name: str) -> int:
    """Open a file whose path in the folder contains no link; return the descriptor.

    Raises:
        OSError: there is a link in its path, or the file cannot be opened.
    """
    if os.open not in os.supports_dir_fd:
        return _open_compared(folder, name)
    *parents, last = name.split("/")
    folder_fd = os.open(folder, _FOLDER)
    try:
        for parent in parents:
            inner_fd = os.open(parent, _FOLDER | _NO_FOLLOW, dir_fd=folder_fd)
            os.close(folder_fd)
            folder_fd = inner_fd
        return os.open(last, READ_FLAGS | _NO_FOLLOW, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def _open_compared(folder: Path, name: str) -> int:
    """`_open_plain` for Windows: open the path, then compare the file with what `lstat` finds."""
    if _first_link(folder, name) is not None:
        raise OSError("a link")
    path = folder / name
    descriptor = os.open(path, READ_FLAGS)
    if os.path.samestat(path.lstat(), os.fstat(descriptor)):
        return descriptor
    os.close(descriptor)
    raise OSError("changed while it was opened")


def _first_link(folder: Path, name: str) -> Path | None:
    path = folder
    for part in name.split("/"):
        path /= part
        if path.is_symlink():
            return path
    return None


def _cached_blob(folder: Path, name: str) -> Path | None:
    """The target of a link in a Hub cache's snapshot, if that is one of the cache's own blobs."""
    here = folder.resolve()
    for commit in (here, *here.parents):
        repository = commit.parent.parent
        if commit.parent.name == "snapshots" and _CACHED_REPOSITORY.match(repository.name):
            target = (here / name).resolve()
            return target if target.parent == repository / "blobs" else None
    return None
