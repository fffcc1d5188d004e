"""The output of a command: made as lines first, and printed when nothing else can fail."""

from collections.abc import Iterable
from typing import Protocol, final

import click

from loratools.cli.failures import printable
from loratools.cli.json import Report, report_json
from loratools.cli.tables import shown_lines
from loratools.cli.verbosity import is_quiet
from loratools.showing.parts import Aside, Part


class ShownReport(Report, Protocol):
    """A report that can be printed as text too."""

    def shown(self, *, verbose: bool = False) -> Iterable[Part]:
        """What is printed; `verbose` has every tensor."""
        ...


def print_lines(lines: Iterable[str]) -> None:
    """Print each `Aside` on stderr, and other lines on stdout; nothing with `-q`."""
    for line in () if is_quiet() else lines:
        click.echo(line, err=isinstance(line, Aside))


def print_faults(lines: Iterable[str]) -> None:
    """Print on stderr, with `-q`, why a check fails: usual output has it among other lines."""
    for line in lines if is_quiet() else ():
        click.echo(printable(line), err=True)


@final
class Answer:
    """The text or the JSON of a report: made when a verb asks to approve it, printed at the end."""

    def __init__(
        self, *, verbose: bool = False, as_json: bool, writes_nothing: bool = False
    ) -> None:
        self._verbose = verbose
        self._writes_nothing = writes_nothing
        self._as_json = as_json
        self._lines: list[str] = []

    def approve(self, report: ShownReport) -> None:
        """Make the lines to print; an error here is before the verb's output is in place."""
        if self._as_json:
            self._lines = [report_json(report)]
        else:
            # The same report is that of an adapter in memory, which is no dry run.
            end = ["dry run: nothing written"] if self._writes_nothing else []
            self._lines = shown_lines([*report.shown(verbose=self._verbose), *end])

    def print(self) -> None:
        """Print what `approve` has made; with `-q`, only JSON."""
        if not self._as_json:
            print_lines(self._lines)
            return
        for line in self._lines:
            click.echo(line)
