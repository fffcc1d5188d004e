"""The one table from failures to exit codes and messages.

0 done · 1 bad input or refused · 2 usage · 3 a check found a difference · 4 input, output or
memory failed · 70 a fault of loratools · 128 + n stopped by signal n.
"""

import signal

import click

from loratools.cli.unknown import advice
from loratools.errors import LoratoolsError, OptionError, StorageError, escaped

CHECK_FAILED = 3
#: The exit code of a program that SIGPIPE ended, as most end in `program | head`. Not 0, which
#: would say of `inspect --check` that nothing is wrong.
_NOBODY_READS = 141
#: The most characters of a message.
_LONGEST = 500
#: The message for each signal.
_SIGNALS = {
    "SIGINT": "Interrupted.",
    "SIGTERM": "Terminated.",
    "SIGHUP": "Hung up.",
    "SIGQUIT": "Quit.",
    "SIGXCPU": "Out of CPU time.",
    "SIGBREAK": "Interrupted.",
}


class Stopped(BaseException):
    """A signal other than SIGINT, as an exception, so that an unfinished output is removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stopped_by(number: int) -> BaseException:
    """The exception that stands for a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (click.exceptions.Exit, 0),
    (click.Abort, 130),
    (KeyboardInterrupt, 130),
    (click.UsageError, 2),
    (OptionError, 2),
    (StorageError, 4),
    (LoratoolsError, 1),
    (BrokenPipeError, _NOBODY_READS),
    (MemoryError, 4),
    (OSError, 4),
)
#: Click's error, since 8.2, for a command called without arguments; its message is the help.
_HELP: type | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())


def exit_code(error: BaseException) -> int:
    """The exit code of a failure; 70 for a fault of loratools itself."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, Stopped):
        return 128 + error.number
    if isinstance(error, SystemExit):
        # Click's own: 0 after printing a shell completion, 1 where the reader of stdout has gone.
        return _NOBODY_READS if error.code else 0
    if _lacking(error) is not None:
        return 4
    return next((code for kind, code in _CODES if isinstance(error, kind)), 70)


def message(error: BaseException) -> str | None:
    """One line for stderr; None where nothing needs to be said."""
    if isinstance(error, click.exceptions.Exit | BrokenPipeError | SystemExit):
        return None
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return _SIGNALS["SIGINT"]
    if isinstance(error, Stopped):
        return _SIGNALS[signal.Signals(error.number).name]
    if isinstance(error, click.UsageError):
        if isinstance(error, _HELP):
            return error.format_message()
        context = error.ctx.get_usage() + "\n" if error.ctx else ""
        return context + printable(f"Error: {error.format_message()}{advice(error)}")
    if (lacking := _lacking(error)) is not None:
        return f"Error: {lacking}"
    if isinstance(error, OSError):
        name, reason = error.filename or "standard output", error.strerror or str(error)
        error = LoratoolsError(f"{name}: {reason.lower()}")
    if isinstance(error, LoratoolsError):
        return printable(f"Error: {error}")
    return (
        f"Error: a fault in loratools: {printable(f'{type(error).__name__}: {error}', 300)}; "
        f"LORATOOLS_DEBUG=1 shows where, and a report is welcome"
    )


def _lacking(error: BaseException) -> str | None:
    """The message for too little memory or too few threads; None for any other error.

    Python and torch have no class of error for most of these.
    """
    if isinstance(error, MemoryError):
        return "out of memory"
    if not isinstance(error, RuntimeError):
        return None
    # torch has a class for it on a GPU, and none on the CPU.
    if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
        return "out of memory"
    if str(error) == "can't start new thread":
        return "no further thread can be started; use fewer --jobs, or end other programs"
    return None


def printable(text: str, limit: int | None = _LONGEST) -> str:
    """`text` on one line, without control characters, cut to `limit` characters."""
    shown = escaped(text)
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 1]}…"
