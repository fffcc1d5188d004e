"""Hashes of files, and notes on which file has been verified against which.

The client checks sizes only. A verified file is noted with its inode, size and time, so that a
model in the cache is not read again for each command.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import final

from loratools.errors import LoratoolsError
from loratools.io.failures import storage_errors
from loratools.io.small import read_small

_CHUNK = 4 * 2**20
_LONGEST_NOTE = 200


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex, which the Hub lists for large files."""
    return _digest(hashlib.sha256(), path)


def git_sha1(content: Path | bytes) -> str:
    """Git's blob id of a file or of bytes, as hex, which the Hub lists for small files."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if not isinstance(content, bytes):
        return _digest(digest, content)
    digest.update(content)
    return digest.hexdigest()


def digest_like(known: str, path: Path, check: Callable[[], object]) -> str:
    """The digest of a file by the algorithm that made `known`: SHA-256, or git's SHA-1.

    `check` is called between its parts; what it raises ends the reading.
    """
    if len(known) == 64:
        return _digest(hashlib.sha256(), path, check)
    return git_sha1(path)


def _digest(digest: "hashlib._Hash", path: Path, check: Callable[[], object] = lambda: None) -> str:
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            check()
            digest.update(buffer[:count])
    return digest.hexdigest()


@final
class Verified:
    """Notes on verified files: in `folder`, a file named after each hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def knows(self, path: Path, digest: str) -> bool:
        """Whether this file has been verified to have this hash, and is unchanged since."""
        try:
            noted = read_small(self._folder / digest, _LONGEST_NOTE)
        except LoratoolsError:
            return False
        with storage_errors(path):
            return noted == identity(path.stat()).encode()

    def remember(self, path: Path, digest: str) -> None:
        """Note that this file has this hash; a note that cannot be written only costs time."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / digest).write_text(identity(path.stat()))
        except OSError:
            pass


def identity(status: os.stat_result) -> str:
    """A text that another file, or the same file changed, does not have."""
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
