"""Write an adapter in another format."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from loratools.cli.failures import printable
from loratools.cli.options import (
    checked_output,
    config_option,
    dialect_options,
    json_option,
    offline_option,
    output_options,
    pickle_option,
    variant_option,
)
from loratools.cli.text import Answer
from loratools.cli.truncations import written_lines
from loratools.cli.unknown import OneOf
from loratools.errors import counted, listing
from loratools.formats import written

if TYPE_CHECKING:
    from loratools.reshaping.convert import ConvertReport

_DTYPES = ("float16", "bfloat16", "float32", "float64")


@click.command("convert", short_help=__doc__)
@click.argument("adapter", type=click.Path())
@output_options
@click.option(
    "--to",
    type=OneOf([dialect.name for dialect in written()]),
    required=True,
    help="The format to write.",
)
@click.option("--base", type=click.Path(), help="The base model, if names need it to be read.")
@variant_option
@click.option("--dtype", type=OneOf(_DTYPES), help="The dtype of the new tensors.")
@click.option("--drop", multiple=True, metavar="GLOB", help="Leave these targets out.")
@json_option
@offline_option
@pickle_option
@config_option
@dialect_options
def command(
    adapter: str,
    output: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    to: str,
    base: str | None,
    variant: str | None,
    dtype: str | None,
    drop: tuple[str, ...],
    allow_pickle: bool,
    config: str | None,
    dialect_options: Mapping[str, str],
) -> None:
    """Write ADAPTER in another format.

    What is written is read again and compared, update by update. What the other format cannot hold
    is an error that names it.
    """
    output = checked_output(output, dry_run=dry_run)
    from loratools.reshaping.convert import convert

    answer = Answer(_text, as_json=as_json)
    convert(
        adapter,
        output=output,
        to=to,
        base=base,
        variant=variant,
        dtype=dtype,
        drop=drop,
        overwrite=overwrite,
        config=config,
        allow_pickle=allow_pickle,
        dialect_options=dialect_options,
        approve=answer.approve,
    )
    answer.print()


def _text(report: "ConvertReport") -> Iterator[str]:
    comparison = report.comparison
    new = len({name for names in report.names.values() for name in names})
    others = "" if new == len(report.names) else f", {new} in the other layout"
    yield f"{report.source} → {report.target}: {counted(len(report.names), 'target')}{others}"
    if report.dropped:
        yield f"left out by --drop: {printable(listing(report.dropped))}"
    for targets, what in (
        (comparison.folded, "scaling multiplied into the factors"),
        (comparison.padded, "factors padded with zeros to one rank"),
    ):
        if targets:
            yield f"{what}: {counted(len(targets), 'target')}"
    worst = comparison.worst
    if worst is None:
        yield "read back: every update is exact"
    else:
        count = sum(1 for error in comparison.errors.values() if error)
        yield (
            f"read back: {counted(len(comparison.errors) - count, 'update')} exact, {count} "
            f"rounded, with a relative error of at most {worst[1]:.2g} ({printable(worst[0])})"
        )
    yield from written_lines(report.written, report.notes)
