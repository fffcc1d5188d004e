"""Stop a run that was asked to stop, without leaving anything half done on disk.

On a signal the command line ends at once, unless something on disk is `unfinished` and has to be
completed or removed first. Then the exception that `check_stop` raises stops the run. Every read
and write of a tensor calls `check_stop`, so a verb has nothing to do to be stoppable. In a program
that calls the verbs nobody calls `ask_to_stop`; there Python raises KeyboardInterrupt by itself.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

Reason = Callable[[], BaseException]


@final
class _Run:
    """The state of the run in this process: only one, since a signal is sent to the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.unfinished = 0
        self.is_finished = False
        self.reason: Reason | None = None


_run = _Run()


def ask_to_stop(reason: Reason) -> None:
    """From now on, let `check_stop` raise the exception that `reason` returns."""
    _run.reason = reason


def begin() -> None:
    """Begin a run: nobody has asked it to stop yet, and its output does not have its name."""
    _run.reason, _run.is_finished = None, False


def finish() -> None:
    """Note that the output has its name: from now on, a signal comes too late to stop the run."""
    _run.is_finished = True


def is_finished() -> bool:
    """Whether the run's output has its name."""
    return _run.is_finished


def is_unfinished() -> bool:
    """Whether an `unfinished` block is running.

    Call `ask_to_stop` first: then no such block begins after the answer.
    """
    with _run.lock:
        return _run.unfinished > 0


def check_stop() -> None:
    """Raise if the run was asked to stop, and its output does not have its name yet."""
    if (reason := _run.reason) is not None and not _run.is_finished:
        raise reason()


@contextmanager
def unfinished() -> Iterator[None]:
    """Mark a block that has something to clean up, and must end before the process does.

    The block is not entered if the run was asked to stop before; `check_stop` raises instead.
    """
    # Counted before the check: `is_unfinished`, asked after `ask_to_stop`, then misses no block.
    with _run.lock:
        _run.unfinished += 1
    try:
        check_stop()
        yield
    finally:
        with _run.lock:
            _run.unfinished -= 1
