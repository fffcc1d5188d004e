"""Files held against the hashes that the Hub lists for them.

The client checks sizes only. What was hashed once is remembered by its identity on disk, so that
a model in the cache is not read again for each command.
"""

import hashlib
import os
from pathlib import Path
from typing import final

from loratools.errors import LoratoolsError, storage_errors
from loratools.io.small import read_small

_CHUNK = 4 * 2**20
_LONGEST_NOTE = 200


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex: how the Hub names large files."""
    return _digest(hashlib.sha256(), path)


def git_sha1(content: Path | bytes) -> str:
    """The id that git gives to a file, or to its bytes, as hex: how the Hub names small files."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    if not isinstance(content, bytes):
        return _digest(digest, content)
    digest.update(content)
    return digest.hexdigest()


def digest_like(known: str, path: Path) -> str:
    """The digest of a file, of the kind that `known` is."""
    return sha256(path) if len(known) == 64 else git_sha1(path)


def _digest(digest: "hashlib._Hash", path: Path) -> str:
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


@final
class Verified:
    """What has been found to have a hash; in files named by the hash in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def knows(self, path: Path, digest: str) -> bool:
        """Whether this file, unchanged since, has been found to have this hash."""
        try:
            noted = read_small(self._folder / digest, _LONGEST_NOTE)
        except LoratoolsError:
            return False
        with storage_errors(path):
            return noted == identity(path.stat()).encode()

    def remember(self, path: Path, digest: str) -> None:
        """Note that it has; that this cannot be written only costs time later."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / digest).write_text(identity(path.stat()))
        except OSError:
            pass


def identity(status: os.stat_result) -> str:
    """Which file it is, and in which state: another one, or a changed one, has another."""
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
