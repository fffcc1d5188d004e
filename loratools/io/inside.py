"""Files that lie in a folder, opened without following a link out of it.

Who filled a folder may have put links into it, to any file of this machine. What is published, or
copied into an output, is therefore opened by descriptors, one part of its name after the other,
none of which may be a link. The one exception is a snapshot in a Hub cache, whose files are links
to the cache's own `blobs`.
"""

import os
import re
from pathlib import Path

from loratools.errors import FormatError, storage_errors

#: To open an input by.
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
    """The descriptor of a file by its name in a folder, which itself may be a link.

    Raises:
        FormatError: a part of the name is a link.
        OSError: it cannot be opened.
    """
    try:
        return _open_plain(folder, name)
    except OSError:
        link = _first_link(folder, name)
        if link is None:
            raise
    blob = _cached_blob(folder, name)
    if blob is None:
        raise FormatError(
            f"{link}: a link, and what it leads to may not be meant; put the file itself in its "
            f"place"
        )
    return _open_plain(blob.parent.parent, f"{blob.parent.name}/{blob.name}")


def entries(folder: Path, depth: int | None = None) -> list[str]:
    """The names of all that is in a folder and in its folders, but for folders; sorted.

    Links are entries and are not followed, whatever they lead to. With a `depth`, only what is at
    most so many folders down.

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
    """Open a file, where no part of its name is a link.

    Raises:
        OSError: one is, or it cannot be opened.
    """
    if os.open not in os.supports_dir_fd:
        return _open_compared(folder, name)
    *parents, last = name.split("/")
    held = os.open(folder, _FOLDER)
    try:
        for parent in parents:
            inner = os.open(parent, _FOLDER | _NO_FOLLOW, dir_fd=held)
            os.close(held)
            held = inner
        return os.open(last, READ_FLAGS | _NO_FOLLOW, dir_fd=held)
    finally:
        os.close(held)


def _open_compared(folder: Path, name: str) -> int:
    """For Windows: opened by its path, and compared with what has that name without links."""
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
    """What a link in a Hub cache's snapshot leads to, if that is one of the cache's own blobs."""
    here = folder.resolve()
    for commit in (here, *here.parents):
        repository = commit.parent.parent
        if commit.parent.name == "snapshots" and _CACHED_REPOSITORY.match(repository.name):
            target = (here / name).resolve()
            return target if target.parent == repository / "blobs" else None
    return None
