"""Descriptors of files: those used last stay open, the others are open only while they are used.

A model may have more files than a process may have open, which is often 256 or 1024.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

#: So many stay open, or a quarter of what the system allows.
_MOST = 64


@final
class _Open:
    """All open descriptors of this process; the lock may be taken again by `__del__`.

    `idle` are those that nobody uses, by their identities; the one that was used last comes last.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.count = 0
        self.idle: dict[int, weakref.ref[Descriptor]] = {}

    def close_idle(self) -> None:
        """Close what was not used for longest, until as few are open as may stay open."""
        while self.idle and self.count > most_open():
            # It may be gone in the meantime, by the collector, which has closed it.
            descriptor = self.idle.pop(next(iter(self.idle)), _gone)()
            if descriptor is not None:
                descriptor.close()


def _gone() -> None:
    return None


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
            self.close()

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
            _open.idle.pop(id(self), None)
            return self._fd

    def _leave(self) -> None:
        if not self._users and self._fd >= 0:
            _open.idle[id(self)] = weakref.ref(self)
            _open.close_idle()

    def close(self) -> None:
        """Close it until it is used again; nobody may be using it."""
        _open.idle.pop(id(self), None)
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
