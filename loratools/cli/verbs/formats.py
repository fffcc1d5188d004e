"""List the formats of adapters, and what can be done with each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from loratools.cli.command import Verb
from loratools.cli.options import json_option
from loratools.cli.tables import Column, table_lines
from loratools.cli.text import Answer

if TYPE_CHECKING:
    from loratools.describing.formats import Formats


@click.command(
    "formats",
    short_help=__doc__,
    cls=Verb,
    examples=(
        ("List the formats:", "loratools formats"),
        ("As JSON, for a script:", "loratools formats --json"),
    ),
)
@json_option
def command(as_json: bool) -> None:
    """List the formats of adapters, and what can be done with each.

    A kind of update that is read can be merged. `convert --to` takes the names of formats that are
    written.
    """
    from loratools.describing.formats import all_formats

    answer = Answer(_text, as_json=as_json)
    answer.approve(all_formats())
    answer.print()


def _text(report: "Formats") -> Iterator[str]:
    rows = report.rows
    yield from table_lines(
        [
            Column("format", [row.name for row in rows]),
            Column("reads", [", ".join(row.reads) or "–" for row in rows]),
            Column("writes", [_writes(row.reads, row.writes) for row in rows]),
            Column("merges", ["yes" if row.merges else "–" for row in rows]),
            Column("an adapter is a", [row.stored or "–" for row in rows]),
        ]
    )


def _writes(reads: tuple[str, ...], writes: tuple[str, ...]) -> str:
    return "the same" if writes and reads == writes else ", ".join(writes) or "–"
