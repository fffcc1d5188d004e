"""`-q` and `-v`: how much a command says, wherever they stand on the command line."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import click

from loratools.cli.failures import printable

if TYPE_CHECKING:
    from pathlib import Path

_QUIET, _VERBOSE = "quiet", "verbose"
_KEY = "loratools.verbosity"


def verbosity_options() -> list[click.Parameter]:
    """`-q` and `-v`, whose values `is_quiet` and `is_verbose` tell."""
    texts = {
        _QUIET: "Print nothing but errors, and what --json asks for.",
        _VERBOSE: "Say more: the files that are read, and the time that the command took.",
    }
    return [
        click.Option(
            [f"-{name[0]}", f"--{name}"],
            is_flag=True,
            expose_value=False,
            callback=_note,
            help=text,
        )
        for name, text in texts.items()
    ]


def is_quiet() -> bool:
    """Whether the command says nothing but errors."""
    return _chosen() == _QUIET


def is_verbose() -> bool:
    """Whether the command says more than usual."""
    return _chosen() == _VERBOSE


def _chosen() -> str | None:
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_KEY)


def _note(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Keep the choice in what all contexts of one command line share."""
    if not value:
        return
    if context.meta.get(_KEY, parameter.name) != parameter.name:
        raise click.UsageError("-q/--quiet and -v/--verbose ask for opposites; give one of them.")
    context.meta[_KEY] = parameter.name


@contextmanager
def reporting() -> Iterator[None]:
    """Within the block, with `-v`, print the files that are read, and at the end the time."""
    if not is_verbose():
        yield
        return
    # Here, because help needs none of it.
    from loratools.io.opened import listening
    from loratools.io.publish import finished_path
    from loratools.showing.parts import human_size

    said: dict[str, None] = {}
    begin = time.monotonic()

    def say(path: "Path", size: int) -> None:
        line = printable(f"read: {finished_path(path)} ({human_size(size)})", limit=None)
        if line not in said:
            said[line] = None
            _echo(line)

    try:
        with listening(say):
            yield
    finally:
        _echo(f"time: {time.monotonic() - begin:.2f} s")


def _echo(line: str) -> None:
    loaded = sys.modules.get("tqdm")  # no bar is shown if nothing has loaded it
    bar_is_away = loaded.tqdm.external_write_mode(sys.stderr) if loaded else nullcontext()
    with suppress(OSError), bar_is_away:  # stderr may be closed, or lead to a full disk
        click.echo(line, err=True)
