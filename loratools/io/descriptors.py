"""Descriptors of files: some stay open, the others are open only while they are used.

A model may have more files than a process may have open, which is often 256 or 1024.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

#: So many stay open, or a quarter of what the system allows.
_MOST = 64


@final
class _Open:
    """All open descriptors of this process; the lock may be taken again by `__del__`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.count = 0


_open = _Open()


@final
class Descriptor:
    """One file, opened by `open_file` when it is used, which has to see that it is the same one.

    `fd` is its descriptor where it is open already.
    """

    def __init__(self, open_file: Callable[[], int], fd: int = -1) -> None:
        self._open_file = open_file
        self._users = 0
        self._fd = fd
        with _open.lock:
            _open.count += fd >= 0
            self._leave()

    def __del__(self) -> None:
        with _open.lock:
            self._close()

    @contextmanager
    def used(self) -> Iterator[int]:
        """The descriptor, open for as long as the block."""
        try:
            yield self.pinned()
        finally:
            with _open.lock:
                self._users -= 1
                self._leave()

    def pinned(self) -> int:
        """The descriptor, open for as long as this object lives."""
        with _open.lock:
            if self._fd < 0:
                self._fd = self._open_file()
                _open.count += 1
            self._users += 1
            return self._fd

    def _leave(self) -> None:
        if not self._users and _open.count > most_open():
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _open.count -= 1


def most_open() -> int:
    """How many descriptors stay open that nobody uses."""
    try:
        import resource
    except ImportError:
        return _MOST
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if allowed < 0 else min(_MOST, allowed // 4)
