"""What a command prints: made as lines first, and printed when nothing else can fail."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, final

import click

from loratools.cli.failures import printable
from loratools.cli.options import Report, report_json

_Report = TypeVar("_Report", bound=Report)


@final
class Aside(str):
    """A line for stderr."""

    __slots__ = ()


def aside(label: str, text: str) -> Aside:
    """`label: text`, for stderr."""
    return Aside(f"{label}: {printable(text)}")


def print_lines(lines: Iterable[str]) -> None:
    """Each to where it belongs."""
    for line in lines:
        click.echo(line, err=isinstance(line, Aside))


@final
class Answer(Generic[_Report]):
    """The text or the JSON of a report: made when a verb asks to approve it, printed at the end."""

    def __init__(self, text: Callable[[_Report], Iterable[str]], *, as_json: bool) -> None:
        self._text = text
        self._as_json = as_json
        self._lines: list[str] = []

    def approve(self, report: _Report) -> None:
        """Make the lines; an error here leaves no output."""
        self._lines = [report_json(report)] if self._as_json else list(self._text(report))

    def print(self) -> None:
        """Print them."""
        print_lines(self._lines)
