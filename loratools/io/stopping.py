"""Where a run that was asked to stop ends, and what it may not leave behind.

The command line ends at once when a signal asks it to, unless something is `unfinished`: on disk,
and to be completed or removed first. Then it is stopped by the exception that `check_stop` raises.
Whatever reads or writes a tensor calls that, so a verb has nothing to do to be stoppable. In a
program that calls the verbs nobody asks; there Python raises KeyboardInterrupt by itself.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

Reason = Callable[[], BaseException]


@final
class _Run:
    """This process, which is what a signal is sent to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.unfinished = 0
        self.is_finished = False
        self.reason: Reason | None = None


_run = _Run()


def ask_to_stop(reason: Reason) -> None:
    """Have `check_stop` raise what `reason` makes from now on."""
    _run.reason = reason


def begin() -> None:
    """A run begins: nobody has asked it to stop, and no output of it has its name."""
    _run.reason, _run.is_finished = None, False


def finish() -> None:
    """The output has its name: all that is left is to say so, and a signal comes too late."""
    _run.is_finished = True


def is_finished() -> bool:
    """Whether it has."""
    return _run.is_finished


def is_unfinished() -> bool:
    """Whether something is. Ask to stop first: then nothing is begun after the answer."""
    with _run.lock:
        return _run.unfinished > 0


def check_stop() -> None:
    """Raise if the run was asked to stop."""
    if (reason := _run.reason) is not None:
        raise reason()


@contextmanager
def unfinished() -> Iterator[None]:
    """A block that has something to clean up, and ends before the process does.

    It is not begun where the run was asked to stop before.
    """
    with _run.lock:
        _run.unfinished += 1
    try:
        check_stop()
        yield
    finally:
        with _run.lock:
            _run.unfinished -= 1
