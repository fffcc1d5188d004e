"""The one table from failures to exit codes and messages, as a line of text or as JSON.

0 done · 1 bad input or refused · 2 usage · 3 a check found a difference · 4 input, output or
memory failed · 70 a fault of loratools · 128 + n stopped by signal n.
"""

import re
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple, final

import click

from loratools.cli.unknown import advice, plain
from loratools.errors import LoratoolsError, OptionError, StorageError, escaped, named_file

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


@final
class Failure(NamedTuple):
    """A failure in the parts that a program may want: the fields of its JSON, in order.

    Attributes:
        kind: the class of an error in Python; or `UsageError`, `signal`, `limit` or `fault`.
        message: one line, which has the file, the tensor and the hint as well.
        file: as `LoratoolsError` has it.
        tensor: as `LoratoolsError` has it.
        hint: as `LoratoolsError` has it.
    """

    kind: str
    message: str
    file: str | None = None
    tensor: str | None = None
    hint: str | None = None


def failure(error: BaseException, words: Sequence[str] = ()) -> Failure | None:
    """What there is to say about an error of a command of these words; None if nothing."""
    if isinstance(error, click.exceptions.Exit | BrokenPipeError | SystemExit):
        return None
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Failure("signal", _SIGNALS["SIGINT"])
    if isinstance(error, Stopped):
        return Failure("signal", _SIGNALS[signal.Signals(error.number).name])
    if isinstance(error, click.UsageError):
        text = f"{plain(error.format_message())}{advice(error)}"
        return Failure("UsageError", text, hint=_usage_hint(error, text))
    if (lacking := _lacking(error)) is not None:
        _, _, hint = lacking.partition("; ")
        return Failure("limit", lacking, hint=hint or None)
    if isinstance(error, OSError):
        name, reason = error.filename or "standard output", error.strerror or str(error)
        error = StorageError(f"{name}: {reason.lower()}", file=error.filename)
    if isinstance(error, LoratoolsError):
        file = error.file or named_file(error, words)
        return Failure(type(error).__name__, str(error), file, error.tensor, error.hint)
    what = printable(f"{type(error).__name__}: {error}", 300)
    hint = "LORATOOLS_DEBUG=1 shows where, and a report is welcome"
    return Failure("fault", f"a fault in loratools: {what}; {hint}", hint=hint)


def message(error: BaseException) -> str | None:
    """One line for stderr, after the usage if that is wrong; None where nothing is to be said."""
    said = failure(error)
    if said is None or said.kind == "signal" or isinstance(error, _HELP):
        return said and said.message
    context = (
        error.ctx.get_usage() + "\n" if isinstance(error, click.UsageError) and error.ctx else ""
    )
    return context + printable(f"Error: {said.message}")


def _usage_hint(error: click.UsageError, text: str) -> str:
    """What the message of a usage error suggests or advises; else, where the options are listed."""
    if found := re.search(
        r"(Did you mean|Possible options|Give |See loratools)[^()]*|(?<=; ).*", text
    ):
        return found[0]
    return f"See {error.ctx.command_path if error.ctx else 'loratools'} --help."


def _lacking(error: BaseException) -> str | None:
    """The message for too little memory, too few threads, or no torch; None for any other error.

    Python and torch have no class of error for most of these.
    """
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, ImportError | OSError) and _is_of_torch(error):
        reason = printable(str(error), 200)
        return f"torch cannot be loaded: {reason}; install it again, or allow more memory"
    if not isinstance(error, RuntimeError):
        return None
    # torch has a class for it on a GPU, and none on the CPU.
    if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
        return "out of memory"
    if str(error) == "can't start new thread":
        return "no further thread can be started; use fewer --jobs, or end other programs"
    return None


def _is_of_torch(error: BaseException) -> bool:
    """Whether torch is not installed, or a library of its own could not be loaded with it."""
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return True
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    names = {str(frame.f_globals.get("__name__")) for frame in frames}
    return "torch" in names and "torch" not in sys.modules  # Python removes what failed to load


def printable(text: str, limit: int | None = _LONGEST) -> str:
    """`text` on one line, without control characters, cut to `limit` characters."""
    shown = escaped(text)
    return shown if limit is None or len(shown) <= limit else f"{shown[: limit - 1]}…"
