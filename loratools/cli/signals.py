"""Signals stop a command at points where it is safe, and not in the middle of something.

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
#: A wait without a time limit cannot be interrupted on Windows.
_TICK_SECONDS = 0.1
#: How long a command may take to print its report, once its output is in place.
_PRINTING_TICKS = 20


@final
class Stoppable:
    """A command that can be stopped by a signal.

    It ends at once if nothing is `unfinished`. Otherwise `check_stop` raises in the command, which
    is waited for while it cleans up; a second SIGINT ends that too. Once the output is in place,
    the command has two more seconds to print its report.
    """

    def __init__(self, command: Callable[[], object]) -> None:
        self._command = command
        # A handler runs at any moment, even while this thread holds a lock that the handler wants.
        # `SimpleQueue.put` is made for that; what has a lock in Python could wait for itself.
        self._events: SimpleQueue[int | Callable[[], object]] = SimpleQueue()
        self._first: int | None = None
        self._thread = Thread(target=self._work, daemon=True)

    def run(self) -> object:
        """Run the command; return or raise what it does, or raise what stands for a signal."""
        begin()
        for number in STOPPING:
            # A background job and nohup have signals ignored, which stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        self._thread.start()
        ticks = 0
        while True:
            try:
                event = self._events.get(timeout=_TICK_SECONDS)
            except Empty:
                # Asked to stop, and with nothing to clean up: only its report may be left to print.
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
        """Ask the command to stop; raise if it is not waited for. The first signal is reported."""
        is_first = self._first is None
        first = self._first = number if self._first is None else self._first
        # Before the question below: after this, nothing unfinished can begin.
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
    """Ignore all signals from now on, so that none interrupts the last lines and the exit."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def _raise(error: BaseException) -> NoReturn:
    raise error
