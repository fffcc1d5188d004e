"""`loratools resize`."""

from typing import Any

import click

from loratools.cli.certificates import print_certificates, print_written
from loratools.cli.options import (
    checked_output,
    config_option,
    jobs_option,
    json_option,
    modules_option,
    offline_option,
    output_options,
    pickle_option,
    print_json,
    rank_options,
    rank_rule,
)


@click.command("resize", short_help="Store an adapter at other ranks.")
@click.argument("adapter", type=click.Path())
@output_options
@rank_options
@modules_option
@jobs_option
@json_option
@offline_option
@pickle_option
@config_option
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
    output = checked_output(output, dry_run=dry_run)
    rule = rank_rule(settings)
    if rule is None and settings["size"] is None:
        raise click.UsageError("Say how many ranks to keep: --rank, --energy, --error, --size, …")
    from loratools.files.resizing import resize

    report = resize(
        adapter,
        output=output,
        rule=rule,
        size=settings["size"],
        overwrite=overwrite,
        jobs=settings["jobs"],
        config=settings["config"],
        allow_pickle=settings["allow_pickle"],
    )
    if as_json:
        print_json(report)
        return
    print_certificates(report.certificates, modules=modules)
    print_written(report.written, report.notes)
