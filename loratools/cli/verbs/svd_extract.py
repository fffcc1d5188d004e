"""Make an adapter of a fine-tuned model and its base."""

from functools import partial
from typing import Any

import click

from loratools.cli.command import BASE, PATH, Verb, section
from loratools.cli.failures import CHECK_FAILED
from loratools.cli.json import json_option
from loratools.cli.options import chosen_device, device_option, jobs_option, modules_option
from loratools.cli.output import checked_output, output_options
from loratools.cli.progress import progress_bar
from loratools.cli.ranks import rank_options, rank_rule
from loratools.cli.reading import offline_option, variant_option
from loratools.cli.text import Answer
from loratools.cli.values import OneOf


@click.command(
    "svd-extract",
    short_help=__doc__,
    cls=Verb,
    arguments={
        "TUNED": "The fine-tuned model, in one of the forms of BASE.",
        "BASE": BASE,
    },
    examples=(
        (
            "Make an adapter of rank 4, and see how near it comes:",
            "loratools svd-extract tuned model --rank 4 --check -o extracted",
        ),
        (
            "Of the attention only, at the ranks that keep 99% of the energy:",
            "loratools svd-extract tuned model --energy 0.99 --only '*attn*' -o attention",
        ),
        (
            "See what differs between two models:",
            "loratools svd-extract tuned model --rank 1 --dry-run",
        ),
    ),
)
@click.argument("tuned", type=PATH)
@click.argument("base", type=PATH)
@section(
    "What is extracted",
    click.option("--only", multiple=True, metavar="GLOB", help="Look only at tensors that match."),
    click.option("--skip", multiple=True, metavar="GLOB", help="Leave out tensors that match."),
    click.option(
        "--full",
        multiple=True,
        metavar="GLOB",
        help="Store modules that match whole, and not as factors.",
    ),
    click.option(
        "--residual",
        type=OneOf(["keep", "drop"]),
        default="keep",
        show_default=True,
        help="What has no place in a LoRA, such as norms and biases: stored whole, or left out.",
    ),
    click.option(
        "--min-change",
        type=click.FloatRange(min=0),
        metavar="F",
        help="Leave out tensors with a relative change below this.  [default: what the rounding of "
        "their dtype makes]",
    ),
)
@rank_options
@partial(output_options, place="a new folder")
@section(
    "More about the output",
    click.option(
        "--dtype",
        type=OneOf(["float32", "bfloat16", "float16"]),
        default="float32",
        show_default=True,
        help="The dtype of the factors.",
    ),
    click.option(
        "--base-name",
        metavar="NAME",
        help="The base's name in the config.  [default: BASE as given]",
    ),
    click.option("--check", is_flag=True, help="Merge the result back and compare it with TUNED."),
    click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped."),
)
@section("Reading the models", variant_option)
@modules_option
@device_option
@jobs_option
@offline_option
@json_option
def command(
    tuned: str,
    base: str,
    output: str | None,
    dry_run: bool,
    as_json: bool,
    modules: bool,
    **settings: Any,
) -> int:
    """Write an adapter that makes BASE into TUNED, as nearly as its ranks allow.

    TUNED and BASE are models of one kind, each sharded in any way.
    """
    checked_output(output, dry_run=dry_run)
    rule = rank_rule(settings)
    if rule is None and settings["size"] is None:
        raise click.UsageError("Say how many ranks to keep: --rank, --energy, --size, ...")
    from loratools.running.parallel import import_torch

    import_torch()
    from loratools.extracting.plan import ExtractOptions
    from loratools.extracting.report import ExtractReport
    from loratools.extracting.svd_extract import svd_extract
    from loratools.extracting.writing import ExtractRun

    device = chosen_device(settings["device"])
    answer = Answer(verbose=modules or dry_run, as_json=as_json, writes_nothing=dry_run)
    with progress_bar() as progress:
        report = svd_extract(
            tuned,
            base,
            output=output,
            dry_run=dry_run,
            rule=rule,
            size=settings["size"],
            options=ExtractOptions(
                only=settings["only"],
                skip=settings["skip"],
                full=settings["full"],
                keep_residual=settings["residual"] == "keep",
                min_change=settings["min_change"],
                dtype=settings["dtype"],
                device=None if device is None else str(device),
            ),
            base_name=settings["base_name"],
            check=settings["check"],
            run=ExtractRun(
                overwrite=settings["overwrite"],
                resume=settings["resume"],
                jobs=settings["jobs"],
                progress=progress,
                approve=answer.approve,
            ),
            variant=settings["variant"],
        )
    answer.print()
    assert isinstance(report, ExtractReport)  # with an output, or in a dry run
    return 0 if report.check is None or report.check.agrees else CHECK_FAILED
