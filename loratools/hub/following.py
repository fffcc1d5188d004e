"""A file is hashed while the client writes it, so that its hash is there when the file is.

This saves time and nothing else: where no file is found, or another one is there in the end, there
is no hash, and where it was begun anew, a wrong one. Then the file has to be read again.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from loratools.hub.verified import identity

_CHUNK = 4 * 2**20
_PAUSE_SECONDS = 0.004


@contextmanager
def following(folder: Path, pattern: str) -> Iterator["Follower"]:
    """Hash the first file in a folder whose name matches, as it grows until the end of the block.

    Not on Windows, where a file that is being read cannot be renamed.
    """
    follower = Follower(folder, pattern)
    thread = threading.Thread(target=follower.run, daemon=True)
    if os.name == "posix":
        thread.start()
    try:
        yield follower
    finally:
        follower.over.set()
        if os.name == "posix":
            thread.join()


@final
class Follower:
    """What is known of a file that was followed.

    Attributes:
        over: set when the file will grow no more.
    """

    def __init__(self, folder: Path, pattern: str) -> None:
        self.over = threading.Event()
        self._folder, self._pattern = folder, pattern
        self._digest = hashlib.sha256()
        self._end: os.stat_result | None = None

    def digest_of(self, path: Path) -> str | None:
        """The SHA-256 of what was read, as hex, if this file was followed and is as it was."""
        if self._end is None:
            return None
        return self._digest.hexdigest() if identity(path.stat()) == identity(self._end) else None

    def run(self) -> None:
        """Follow the file."""
        with suppress(OSError):
            path = self._found()
            if path is not None:
                self._read(path)

    def _found(self) -> Path | None:
        while not self.over.wait(_PAUSE_SECONDS):
            for path in self._folder.glob(self._pattern):
                return path
        return None

    def _read(self, path: Path) -> None:
        buffer = memoryview(bytearray(_CHUNK))
        with path.open("rb", buffering=0) as file:
            while True:
                is_over = self.over.is_set()  # before what is read last
                if count := file.readinto(buffer):
                    self._digest.update(buffer[:count])
                elif is_over:
                    break
                else:
                    self.over.wait(_PAUSE_SECONDS)
            self._end = os.fstat(file.fileno())
