"""`--json`: whether it is asked for, and reports as JSON."""

import sys
from typing import Any, Protocol

import click

from loratools.cli.command import Command


def asks_for_json() -> bool:
    """Whether `--json` is on the command line, which may be one that cannot be parsed."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def json_option(command: Command) -> Command:
    """`--json`: print the report as one JSON object on stdout, and an error as one on stderr."""
    return click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")(
        command
    )


class Report(Protocol):
    """The result of a verb, which can be printed as JSON."""

    def to_json(self) -> dict[str, Any]:
        """The report as a documented JSON object."""
        ...


def print_json(report: Report) -> None:
    """Print a report as JSON, for `--json`."""
    click.echo(report_json(report))


def report_json(report: Report) -> str:
    """A report as JSON text."""
    from loratools.io.json import json_text

    # A path that is not UTF-8 is printed with escapes, which mean the same in JSON.
    return json_text(report.to_json(), indent=2)
