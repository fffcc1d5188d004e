"""Combine adapters of one base into one."""

from typing import Any

import click

from loratools import methods, registry
from loratools.cli.command import ADAPTER, PATH, section
from loratools.cli.json import json_option
from loratools.cli.method_options import (
    METHOD_OPTIONS,
    METHOD_SECTION,
    RANDOM_METHODS,
    CombineVerb,
    method_options,
)
from loratools.cli.options import (
    chosen_device,
    device_option,
    is_given,
    jobs_option,
    modules_option,
    where_option,
)
from loratools.cli.output import check_unwritten, checked_output, output_options
from loratools.cli.progress import progress_bar
from loratools.cli.ranks import rank_options, rank_rule
from loratools.cli.reading import base_option, offline_option, reading_options
from loratools.cli.text import Answer
from loratools.cli.values import OneOf
from loratools.cli.weights import check_counts, weight_option, weighted


@click.command(
    "combine",
    short_help=__doc__,
    cls=CombineVerb,
    arguments={"ADAPTER": f"{ADAPTER} All are for one base, and of one format."},
    examples=(
        (
            "Add two adapters, exactly; the ranks add up:",
            "loratools combine style.safetensors detail.safetensors -w 0.7,0.3 -o sum.safetensors",
        ),
        (
            "The best approximation of the sum at rank 16:",
            "loratools combine adapter other-adapter --rank 16 -o both",
        ),
        (
            "TIES, in a file of at most 300 kB:",
            "loratools combine adapter other-adapter --method ties --density 0.3 --size 300kB "
            "-o ties",
        ),
    ),
)
@click.argument("adapters", nargs=-1, required=True, type=PATH, metavar="ADAPTER...")
@section(
    "What is combined",
    weight_option,
    click.option(
        "--method",
        type=OneOf(registry.names(methods)),
        metavar="METHOD",
        default="linear",
        show_default=True,
        help="How the updates are combined; see Methods.",
    ),
    where_option,
    click.option(
        "--replaced",
        type=OneOf(["refuse", "first", "average"]),
        default="refuse",
        show_default=True,
        help="What to do if adapters store one tensor whole, and differently: refuse them, take "
        "the first adapter's, or the average.",
    ),
)
@section(
    METHOD_SECTION,
    method_options,
    click.option(
        "--seed",
        type=int,
        metavar="N",
        default=0,
        show_default=True,
        help=f"The seed of random choices.  [{', '.join(RANDOM_METHODS)}]",
    ),
)
@rank_options
@output_options
@section("Reading the base", base_option)
@reading_options
@modules_option
@device_option
@jobs_option
@offline_option
@json_option
def command(
    adapters: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    dry_run: bool,
    weights: tuple[float, ...],
    modules: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write one adapter that does what the ADAPTERs do together, each with its weight.

    Without a rank rule a linear combination is exact: the ranks add up. With one it is the best
    approximation, and the report says what was lost.
    """
    place, output = output, checked_output(output, dry_run=dry_run)
    adapters, weights = weighted(adapters, weights)
    check_counts(len(adapters), weights)
    if is_given("seed") and settings["method"] not in RANDOM_METHODS:
        raise click.UsageError(f"{settings['method']} makes no random choices for a --seed.")
    from loratools.methods import MethodOptions
    from loratools.reshaping.combine import combine
    from loratools.reshaping.combined import Combination

    answer = Answer(verbose=modules, as_json=as_json, writes_nothing=dry_run)
    with progress_bar("targets") as progress:
        made = combine(
            adapters,
            output=output,
            weights=weights or None,
            combination=Combination(
                method=settings["method"],
                options=MethodOptions(**{name: settings[name] for name in METHOD_OPTIONS}),
                where=settings["where"],
                replaced=settings["replaced"],
                seed=settings["seed"],
                device=chosen_device(settings["device"]),
            ),
            rule=rank_rule(settings),
            size=settings["size"],
            base=settings["base"],
            variant=settings["variant"],
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
