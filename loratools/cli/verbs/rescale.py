"""Make an adapter stronger or weaker."""

from functools import partial
from itertools import pairwise
from typing import Any

import click

from loratools.cli.command import ADAPTER, PATH, Verb, section
from loratools.cli.json import json_option
from loratools.cli.options import where_option
from loratools.cli.output import check_unwritten, checked_output, output_options
from loratools.cli.progress import progress_bar
from loratools.cli.ranks import rank_options, rank_rule
from loratools.cli.reading import base_option, offline_option, reading_options
from loratools.cli.text import Answer
from loratools.cli.values import OneOf
from loratools.cli.weights import block_weights_option
from loratools.traps import ALL, names


class _Command(Verb):
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


@click.command(
    "rescale",
    short_help=__doc__,
    cls=_Command,
    arguments={"ADAPTER": ADAPTER},
    examples=(
        (
            "Write an adapter at 70% of its strength:",
            "loratools rescale style.safetensors --strength 0.7 -o weaker.safetensors",
        ),
        (
            "Halve the strength of the updates of one module in each layer:",
            "loratools rescale adapter --where '*.q_proj=0.5' -o weaker",
        ),
        (
            "Repair what `loratools inspect` has found, and named [rslora]:",
            "loratools rescale other-adapter --repair rslora -o repaired",
        ),
    ),
)
@click.argument("adapter", type=PATH)
@section(
    "Other strengths",
    click.option("--strength", type=float, metavar="F", help="Multiply every update by F."),
    where_option,
    block_weights_option,
    click.option(
        "--alpha",
        type=float,
        metavar="A",
        help="Set the alpha of every update, which changes its strength: alpha / rank.",
    ),
    click.option(
        "--keep-replaced",
        is_flag=True,
        help="Keep tensors that are stored whole as they are; they have no strength.",
    ),
)
@section(
    "The same strengths, stored in another way",
    click.option(
        "--fold", is_flag=True, help="Multiply the scaling into the factors, so that alpha = rank."
    ),
    click.option(
        "--rule",
        type=OneOf(["alpha-over-rank", "rslora"]),
        help="Write the alpha that gives the same strength under this rule: alpha / rank, or "
        "alpha / √rank.",
    ),
    click.option(
        "--balance",
        is_flag=True,
        help="Give the two factors of each update about the same norm.",
    ),
)
@section(
    "Repairs",
    click.option(
        "--repair",
        type=OneOf((ALL, *names())),
        multiple=True,
        metavar="[TRAP]",
        help="Repair everything that `loratools inspect --check` finds; or only the trap that it "
        "names in brackets, such as [dropped-alpha].",
    ),
)
@section("DoRA and the like, as LoRA for one base", base_option)
@rank_options
@output_options
@partial(reading_options, without=["alpha"])  # its own --alpha says it too
@offline_option
@json_option
def command(
    adapter: str, output: str | None, overwrite: bool, dry_run: bool, as_json: bool, **settings: Any
) -> None:
    """Write ADAPTER with other strengths, or with the same strengths stored in another way.

    Strengths go into alpha, where they are exact. --fold, --rule and --balance leave every update
    as it is. --repair changes what it says in its report.
    """
    place, output = output, checked_output(output, dry_run=dry_run)
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
    answer = Answer(as_json=as_json, writes_nothing=dry_run)
    with progress_bar("targets") as progress:
        made = rescale(
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
            progress=progress,
            approve=answer.approve,
        )
    check_unwritten(made, place, dry_run=dry_run, overwrite=overwrite)
    answer.print()
