"""SIGINT and SIGTERM stop a command where it can be stopped, and not in the middle of something.

Python raises what a signal handler raises between any two instructions of the main thread: while
it takes a lock, which then nobody gives back, or inside torch's C++, which aborts the process. So
the command runs in another thread; the main thread waits for its end, or for a signal.
"""

import signal
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType
from typing import NoReturn, final

from loratools.cli.failures import Terminated

#: A wait without an end cannot be interrupted on Windows.
_TICK_SECONDS = 0.1


@final
class Stoppable:
    """A command that can be stopped by a signal.

    It ends at once as long as it has not called `check`. From then on it has something to clean
    up, is stopped by the exception that `check` raises, and is waited for; a second SIGINT ends
    that too.
    """

    def __init__(self, command: Callable[["Stoppable"], object]) -> None:
        self._command = command
        # `put` may be called by a handler at any moment; nothing with a lock in Python may.
        self._events: SimpleQueue[int | Callable[[], object]] = SimpleQueue()
        self._stopped_by: BaseException | None = None
        self._cleans_up = False
        self._thread = Thread(target=self._work, daemon=True)

    def run(self) -> object:
        """What the command returns or raises; or the exception that stands for a signal."""
        signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for a background job
            signal.signal(signal.SIGINT, self._note)
        self._thread.start()
        while True:
            try:
                event = self._events.get(timeout=_TICK_SECONDS)
            except Empty:
                continue
            if not isinstance(event, int):
                self._thread.join()
                return event()
            self._stop(event)

    def check(self) -> None:
        """Raise if there was a signal; otherwise none will go unnoticed from now on."""
        self._cleans_up = True
        if self._stopped_by is not None:
            raise self._stopped_by

    def _stop(self, number: int) -> None:
        is_first = self._stopped_by is None
        if is_first:
            self._stopped_by = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        if (is_first and not self._cleans_up) or (not is_first and number == signal.SIGINT):
            assert self._stopped_by is not None
            raise self._stopped_by

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._events.put(number)

    def _work(self) -> None:
        try:
            result = self._command(self)
        except BaseException as error:  # whatever it is, the main thread raises it
            caught = error
            self._events.put(lambda: _raise(caught))
        else:
            self._events.put(lambda: result)


def ignore_signals() -> None:
    """Let nothing interrupt what is left to do."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _raise(error: BaseException) -> NoReturn:
    raise error
