"""How wide what a command prints may be, and the lines of it at that width."""

import os
import sys
from collections.abc import Iterable
from functools import partial

import click

from loratools.cli.failures import printable
from loratools.showing.parts import Aside, Part


def shown_lines(parts: Iterable[Part]) -> list[str]:
    """The lines of what a command shows, for the terminal or the pipe that stdout is."""
    from loratools.showing.lines import Look, lines_of

    # click removes the marks where stdout is no terminal.
    bold, dim = partial(click.style, bold=True), partial(click.style, dim=True)
    is_marked = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    look = Look(_width(), bold, dim) if is_marked else Look(_width())
    return [
        Aside(printable(line)) if isinstance(line, Aside) else line
        for line in lines_of(parts, look)
    ]


def _width() -> int | None:
    """The terminal's width, or the one that COLUMNS asks for; None in a pipe.

    A script then finds each row on one line, whichever terminal it was started from.
    """
    asked = os.environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    if not sys.stdout.isatty():
        return None
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        columns = 0
    return columns or 80  # the usual width, where a terminal does not tell its own
