"""Hash a file while the client writes it, so that it need not be read again for its hash.

This only saves time. Where no file was found, or another one is there in the end, there is no hash;
where the client began the file anew, a wrong one. Then the caller has to read the file after all.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from loratools.hub.verified import identity
from loratools.running.work import GivenUpError

_CHUNK = 4 * 2**20
_PAUSE_SECONDS = 0.004


@contextmanager
def following(
    folder: Path, pattern: str, told: Callable[[int], object] | None = None
) -> Iterator["Follower"]:
    """Hash the first file in `folder` that matches `pattern`, while it grows during the block.

    `told` is called, by another thread, with the number of its bytes that have been read so far;
    the file is left alone once it raises `GivenUpError`.
    Not on Windows, where the client could not rename a file that is being read.
    """
    follower = Follower(folder, pattern, told)
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
    """Finds a growing file in a folder, reads it in a thread of its own, and hashes it.

    Attributes:
        over: set when the file will grow no more.
    """

    def __init__(self, folder: Path, pattern: str, told: Callable[[int], object] | None) -> None:
        self.over = threading.Event()
        self._folder, self._pattern, self._told = folder, pattern, told
        self._digest = hashlib.sha256()
        self._end: os.stat_result | None = None

    def digest_of(self, path: Path) -> str | None:
        """The SHA-256 of what was read, as hex, if `path` is the file read, unchanged since."""
        if self._end is None:
            return None
        return self._digest.hexdigest() if identity(path.stat()) == identity(self._end) else None

    def run(self) -> None:
        """Wait for the file, then hash it until `over` is set and its end is reached."""
        with suppress(OSError, GivenUpError):
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
                # Asked before reading: what is written between an empty read and the question would
                # be missed.
                is_over = self.over.is_set()
                if count := file.readinto(buffer):
                    self._digest.update(buffer[:count])
                    if self._told is not None:
                        self._told(file.tell())
                elif is_over:
                    break
                else:
                    self.over.wait(_PAUSE_SECONDS)
            self._end = os.fstat(file.fileno())
