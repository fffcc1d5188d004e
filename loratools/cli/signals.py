"""Signals stop a command where it can be stopped, and not in the middle of something.

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

from loratools.cli.failures import stopped_by
from loratools.io.stopping import ask_to_stop, begin, is_finished, is_unfinished

#: What a terminal, a shell, a supervisor or a batch system sends to end a program; not all exist
#: on Windows, and SIGBREAK only there.
STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGBREAK")
    if hasattr(signal, name)
)
#: A wait without an end cannot be interrupted on Windows.
_TICK_SECONDS = 0.1
#: For a command whose output has its name, to print what it says of it.
_PRINTING_TICKS = 20


@final
class Stoppable:
    """A command that can be stopped by a signal.

    It ends at once as long as it has nothing `unfinished`, which is stopped by the exception that
    `check_stop` raises, and waited for. A second SIGINT ends that too. When its output has its
    name, it has two seconds more to print what it says of it.
    """

    def __init__(self, command: Callable[[], object]) -> None:
        self._command = command
        # `put` may be called by a handler at any moment; nothing with a lock in Python may.
        self._events: SimpleQueue[int | Callable[[], object]] = SimpleQueue()
        self._first: int | None = None
        self._thread = Thread(target=self._work, daemon=True)

    def run(self) -> object:
        """What the command returns or raises; or the exception that stands for a signal."""
        begin()
        for number in STOPPING:
            # As for a background job, and under nohup.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        self._thread.start()
        ticks = 0
        while True:
            try:
                event = self._events.get(timeout=_TICK_SECONDS)
            except Empty:
                if self._first is not None and not is_unfinished():
                    ticks += 1
                    if ticks > _PRINTING_TICKS:
                        raise stopped_by(self._first) from None
                continue
            if not isinstance(event, int):
                self._thread.join()
                return event()
            self._stop(event)

    def _stop(self, number: int) -> None:
        """Raise where the command is not waited for; the first signal says how it ends."""
        is_first = self._first is None
        first = self._first = number if self._first is None else self._first
        ask_to_stop(lambda: stopped_by(first))
        is_idle = not is_unfinished() and not is_finished()
        if is_idle or (number == signal.SIGINT and not is_first):
            raise stopped_by(first)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._events.put(number)

    def _work(self) -> None:
        try:
            result = self._command()
        except BaseException as error:  # whatever it is, the main thread raises it
            caught = error
            self._events.put(lambda: _raise(caught))
        else:
            self._events.put(lambda: result)


def ignore_signals() -> None:
    """Let nothing interrupt what is left to do."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _raise(error: BaseException) -> NoReturn:
    raise error
