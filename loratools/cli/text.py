"""The output of a command: made as lines first, and printed when nothing else can fail."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, final

import click

from loratools.cli.failures import printable
from loratools.cli.options import Report, report_json
from loratools.cli.verbosity import is_quiet

_Report = TypeVar("_Report", bound=Report)


@final
class Aside(str):
    """A line that is printed on stderr."""

    __slots__ = ()


def aside(label: str, text: str) -> Aside:
    """A line `label: text` for stderr."""
    return Aside(f"{label}: {printable(text)}")


def print_lines(lines: Iterable[str]) -> None:
    """Print each `Aside` on stderr, and other lines on stdout; nothing with `-q`."""
    for line in () if is_quiet() else lines:
        click.echo(line, err=isinstance(line, Aside))


@final
class Answer(Generic[_Report]):
    """The text or the JSON of a report: made when a verb asks to approve it, printed at the end."""

    def __init__(self, text: Callable[[_Report], Iterable[str]], *, as_json: bool) -> None:
        self._text = text
        self._as_json = as_json
        self._lines: list[str] = []

    def approve(self, report: _Report) -> None:
        """Make the lines to print; an error here is before the verb's output is in place."""
        self._lines = [report_json(report)] if self._as_json else list(self._text(report))

    def print(self) -> None:
        """Print what `approve` has made; with `-q`, only JSON."""
        if not self._as_json:
            print_lines(self._lines)
            return
        for line in self._lines:
            click.echo(line)
