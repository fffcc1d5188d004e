"""Make an adapter stronger or weaker."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from loratools.cli.failures import printable
from loratools.cli.options import (
    base_option,
    checked_output,
    config_option,
    dialect_options,
    json_option,
    offline_option,
    output_options,
    pickle_option,
    rank_options,
    rank_rule,
    where_option,
)
from loratools.cli.tables import Column, table_lines
from loratools.cli.text import Answer
from loratools.cli.truncations import written_lines
from loratools.cli.unknown import OneOf
from loratools.cli.weights import block_weights_option
from loratools.traps import ALL, names

if TYPE_CHECKING:
    from loratools.reshaping.rescale import RescaleReport
    from loratools.traps import Change


class _Command(click.Command):
    """The command, whose `--repair` may stand alone, also before the name of the adapter."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give `--repair` the value `all` where no trap is named after it."""
        traps = (ALL, *names())
        followers = [*args, ""][1:]
        given = [
            f"--repair={ALL}" if argument == "--repair" and follower not in traps else argument
            for argument, follower in zip(args, followers, strict=True)
        ]
        try:
            return super().parse_args(ctx, given)
        except click.UsageError as error:
            for argument, follower in pairwise(args):
                if argument == "--repair" and f"argument ({follower})" in error.message:
                    message = f"{error.message}; it is no trap: {', '.join(traps)}"
                    raise click.UsageError(message, ctx) from None
            raise


@click.command("rescale", short_help=__doc__, cls=_Command)
@click.argument("adapter", type=click.Path())
@output_options
@click.option("--strength", type=float, metavar="F", help="Multiply every update by F.")
@where_option
@block_weights_option
@click.option("--alpha", type=float, metavar="A", help="Set alpha, and so change the strength.")
@click.option("--fold", is_flag=True, help="Put the scaling into the factors: alpha = rank.")
@click.option(
    "--rule",
    type=OneOf(["alpha-over-rank", "rslora"]),
    help="Write alpha for this rule; the strength stays.",
)
@click.option("--balance", is_flag=True, help="Give both factors of an update about the same norm.")
@click.option("--keep-replaced", is_flag=True, help="Keep whole tensors, which have no strength.")
@click.option(
    "--repair",
    type=OneOf((ALL, *names())),
    multiple=True,
    metavar="[TRAP]",
    help="Repair all traps that inspect --check finds, or this one only.",
)
@base_option
@rank_options
@json_option
@offline_option
@pickle_option
@config_option
@partial(dialect_options, without=["alpha"])  # its own --alpha says it too
def command(
    adapter: str, output: str | None, overwrite: bool, dry_run: bool, as_json: bool, **settings: Any
) -> None:
    """Write ADAPTER with other strengths, or with the same strengths stored in another way.

    Strengths go into alpha, where they are exact. --fold, --rule and --balance leave every update
    as it is. --repair changes what it says in its report.
    """
    output = checked_output(output, dry_run=dry_run)
    rescaling_names = (
        "strength",
        "where",
        "block_weights",
        "alpha",
        "fold",
        "rule",
        "balance",
        "repair",
    )
    # By identity, because a strength or an alpha of 0 is something to do, and equal to False.
    if all(settings[name] in ((), None) or settings[name] is False for name in rescaling_names):
        raise click.UsageError("Nothing to do: give --strength, --where, --alpha, --fold, …")
    rule = rank_rule(settings)
    if settings["base"] is None and (rule is not None or settings["size"] is not None):
        raise click.UsageError(
            "A rank rule needs --base: it is for updates that --base makes additive."
        )
    from loratools.reshaping.rescale import rescale
    from loratools.reshaping.rescaled import Rescaling

    strength = settings["strength"]
    chosen = {name: settings[name] for name in (*rescaling_names[1:-1], "keep_replaced")}
    answer = Answer(_text, as_json=as_json)
    rescale(
        adapter,
        output=output,
        rescaling=Rescaling(strength=1.0 if strength is None else strength, **chosen),
        base=settings["base"],
        variant=settings["variant"],
        rule=rule,
        size=settings["size"],
        overwrite=overwrite,
        config=settings["config"],
        allow_pickle=settings["allow_pickle"],
        dialect_options=settings["dialect_options"],
        repair=settings["repair"],
        approve=answer.approve,
    )
    answer.print()


def _text(report: "RescaleReport") -> Iterator[str]:
    if report.repairs:
        yield from table_lines(_repair_columns(report.repairs))
    groups = report.groups()
    yield from table_lines(
        [
            Column("targets", [name.removesuffix(".weight") for name in groups]),
            Column("n", [str(len(strengths)) for strengths in groups.values()], is_number=True),
            Column("update", [_times(strengths) for strengths in groups.values()], is_number=True),
        ]
    )
    yield from written_lines(report.written, report.notes)


def _repair_columns(repairs: "Sequence[Change]") -> list[Column]:
    """A row for each change, and one for all of those that differ in the target alone."""
    rows = Counter((change.trap, change.before, change.after) for change in repairs)
    return [
        Column("repaired", [trap for trap, _, _ in rows]),
        Column("n", [str(count) for count in rows.values()], is_number=True),
        Column("before", [printable(before) for _, before, _ in rows]),
        Column("after", [printable(after) for _, _, after in rows]),
    ]


def _times(strengths: tuple[float, ...]) -> str:
    least, most = min(strengths), max(strengths)
    if least == most:
        return "unchanged" if least == 1 else f"× {least:g}"
    return f"× {least:g} to {most:g}"
