"""List the formats of adapters, and what can be done with each."""

import click

from loratools.cli.command import Verb
from loratools.cli.json import json_option
from loratools.cli.text import Answer


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

    answer = Answer(as_json=as_json)
    answer.approve(all_formats())
    answer.print()
