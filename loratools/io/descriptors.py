"""A cache of file descriptors: those used last stay open, others are open only while in use.

A model may have more files than a process may have open, which is often 256 or 1024.
"""

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

#: Idle descriptors are closed while more than this, or a quarter of the system's limit, are open.
_MOST = 64


@final
class _Open:
    """The open descriptors of this process, and the lock that guards them.

    `idle` has the descriptors that nobody uses, by `id`, with the one that was used last at the
    end. Its references are weak, so that it keeps no descriptor alive and open.
    """

    def __init__(self) -> None:
        # Reentrant: a garbage collection while it is held may call `Descriptor.__del__`.
        self.lock = threading.RLock()
        self.count = 0
        self.idle: dict[int, weakref.ref[Descriptor]] = {}

    def close_idle(self) -> None:
        """Close idle descriptors, least recently used first, until few enough are open."""
        while self.idle and self.count > most_open():
            # A garbage collection in between may have closed it: then its entry, or it, is gone.
            descriptor = self.idle.pop(next(iter(self.idle)), _gone)()
            if descriptor is not None:
                descriptor.close()


def _gone() -> None:
    return None


_open = _Open()


@final
class Descriptor:
    """A file that is opened when it is used, and may be closed between two uses.

    `open_file` must verify that it opens the same file each time. `fd` is the descriptor of a file
    that is open already.
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
        """The open descriptor, which is not closed before the block ends."""
        fd = self.pinned()
        try:
            yield fd
        finally:
            with _open.lock:
                self._users -= 1
                self._leave()

    def pinned(self) -> int:
        """The open descriptor, which is not closed as long as this object lives."""
        with _open.lock:
            if self._fd < 0:
                self._fd = self._open_file()
                _open.count += 1
            self._users += 1
            _open.idle.pop(id(self), None)
            return self._fd

    def reopen_by(self, open_file: Callable[[], int]) -> None:
        """Call another function whenever the file has to be opened again."""
        self._open_file = open_file

    def _leave(self) -> None:
        if not self._users and self._fd >= 0:
            _open.idle[id(self)] = weakref.ref(self)
            _open.close_idle()

    def close(self) -> None:
        """Close the descriptor until it is used again; needs the lock, and that nobody uses it."""
        _open.idle.pop(id(self), None)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            _open.count -= 1


def most_open() -> int:
    """The number of open descriptors above which those that nobody uses are closed."""
    try:
        import resource
    except ImportError:
        return _MOST
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if allowed < 0 else min(_MOST, allowed // 4)
