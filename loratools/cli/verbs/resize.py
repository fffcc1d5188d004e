"""Store an adapter at other ranks."""

from typing import Any

import click

from loratools.cli.command import ADAPTER, PATH, Verb
from loratools.cli.json import json_option
from loratools.cli.options import jobs_option, modules_option
from loratools.cli.output import check_unwritten, checked_output, output_options
from loratools.cli.progress import progress_bar
from loratools.cli.ranks import rank_options, rank_rule
from loratools.cli.reading import offline_option, reading_options
from loratools.cli.text import Answer


@click.command(
    "resize",
    short_help=__doc__,
    cls=Verb,
    arguments={"ADAPTER": ADAPTER},
    examples=(
        (
            "Store an adapter at rank 4, whatever is lost:",
            "loratools resize adapter --rank 4 -o small",
        ),
        (
            "Keep 95% of the energy of each update:",
            "loratools resize style.safetensors --energy 0.95 -o small.safetensors",
        ),
        (
            "See what a file of at most 100 kB would cost:",
            "loratools resize adapter --size 100kB --dry-run",
        ),
    ),
)
@click.argument("adapter", type=PATH)
@rank_options
@output_options
@reading_options
@modules_option
@jobs_option
@offline_option
@json_option
def command(
    adapter: str,
    output: str | None,
    overwrite: bool,
    dry_run: bool,
    modules: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write ADAPTER at the ranks that a rule gives: the best approximation of every update.

    The strength stays. A rank that grows is filled with zeros. The report says what was lost.
    """
    place, output = output, checked_output(output, dry_run=dry_run)
    rule = rank_rule(settings)
    if rule is None and settings["size"] is None:
        raise click.UsageError("Say how many ranks to keep: --rank, --energy, --error, --size, …")
    from loratools.reshaping.resize import resize

    answer = Answer(verbose=modules, as_json=as_json, writes_nothing=dry_run)
    with progress_bar("targets") as progress:
        made = resize(
            adapter,
            output=output,
            rule=rule,
            size=settings["size"],
            overwrite=overwrite,
            jobs=settings["jobs"],
            config=settings["config"],
            allow_pickle=settings["allow_pickle"],
            dialect_options=settings["dialect_options"],
            progress=progress,
            approve=answer.approve,
        )
    check_unwritten(made, place, dry_run=dry_run, overwrite=overwrite)
    answer.print()
