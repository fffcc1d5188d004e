"""The options for where something is written, and whether."""

from collections.abc import Callable
from typing import Any

import click

from loratools.cli.command import PATH, Command, section

_PLACE = "a new folder, or a new file if the format is a single file"


def output_options(command: Command, *, place: str = _PLACE) -> Command:
    """`-o`, `--overwrite`, `--dry-run`: where an adapter is written, and whether."""
    adapter = output_option("adapter", place)
    return section("Output", adapter, overwrite_option, dry_run_option)(command)


def output_option(what: str, place: str) -> Callable[[Command], Command]:
    """`-o`: where the result is written, and whether that is a folder or a file."""
    text = f"Where the {what} is written: {place}."
    return click.option("-o", "--output", type=PATH, metavar="PATH", help=text)


def overwrite_option(command: Command) -> Command:
    """`--overwrite`: replace an output that exists."""
    return click.option("--overwrite", is_flag=True, help="Replace an output that exists.")(command)


def dry_run_option(command: Command) -> Command:
    """`--dry-run`: do everything but write."""
    text = "Check and report, but write nothing."
    return click.option("--dry-run", is_flag=True, help=text)(command)


def checked_output(output: str | None, *, dry_run: bool) -> str | None:
    """The path of the output; None in a dry run.

    Raises:
        UsageError: no output is given, and it is not a dry run.
    """
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output' (or use --dry-run).")
    return None if dry_run else output


def check_unwritten(made: Any, output: str | None, *, dry_run: bool, overwrite: bool) -> None:
    """After a dry run, check that what was made in memory could be written, and to `output`.

    Raises:
        LoratoolsError: it could not; see `write_adapter`.
    """
    if not dry_run:
        return
    from pathlib import Path

    from loratools.files.place import local_paths
    from loratools.files.writing import check_writing

    place = None if output is None else Path(output)
    check_writing(made, place, inputs=local_paths(made), overwrite=overwrite)
