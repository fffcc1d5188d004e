"""Progress of work that several threads do, in bytes."""

import threading
from collections.abc import Callable
from typing import final


@final
class Watch:
    """Counts the bytes done by all threads, and reports them as progress."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress or (lambda done, total: None)
        self._lock = threading.Lock()

    def __call__(self, nbytes: int = 0) -> None:
        """Count some more bytes; without any, only let `progress` raise to stop the work."""
        with self._lock:
            self._done = min(self._total, self._done + nbytes)
            self._progress(self._done, self._total)
