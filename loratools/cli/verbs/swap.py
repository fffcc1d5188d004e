"""Swap adapters in a model's own files, exactly."""

from functools import partial
from typing import Any

import click

from loratools.cli.command import PATH, Verb, section
from loratools.cli.json import json_option
from loratools.cli.options import (
    allow_nonfinite_option,
    allow_unmatched_option,
    jobs_option,
    rounding_options,
    selection_options,
)
from loratools.cli.output import dry_run_option
from loratools.cli.reading import offline_option, reading_options, variant_option
from loratools.cli.swaps import run_swap
from loratools.cli.weights import block_weights_option, check_counts, weight_option, weighted


@click.command(
    "swap",
    short_help=__doc__,
    cls=Verb,
    arguments={"MODEL": "Your own copy of a base: a folder or a safetensors file."},
    examples=(
        ("Put an adapter in:", "loratools swap model --in adapter"),
        (
            "Put two others in, in its place, each at its own weight:",
            "loratools swap model --in adapter:0.7 --in other-adapter:0.3",
        ),
        ("Take all out, so that each byte is as it was:", "loratools swap model --out"),
    ),
)
@click.argument("model", type=PATH)
@section(
    "What is put in",
    click.option(
        "--in",
        "adapters",
        type=PATH,
        multiple=True,
        metavar="ADAPTER",
        help="Put this adapter in, in place of those that are in; several are added up.",
    ),
    click.option("--out", is_flag=True, help="Take all adapters out: each byte is as it was."),
    weight_option,
    partial(block_weights_option, of_each=True),
    selection_options,
    allow_unmatched_option,
)
@section("Numbers", rounding_options, allow_nonfinite_option)
@section("Output", dry_run_option)
@section("Reading the model", variant_option)
@reading_options
@jobs_option
@offline_option
@json_option
def command(
    model: str,
    adapters: tuple[str, ...],
    out: bool,
    weights: tuple[float, ...],
    as_json: bool,
    **settings: Any,
) -> None:
    """Change the adapters in MODEL, a copy of a base, in MODEL's own files.

    Without --in and --out, show which adapters are in. Each call first completes a swap that was
    interrupted. What MODEL was is kept beside it, in a folder whose name ends in .loratools-swap.
    """
    if adapters and out:
        raise click.UsageError("--in takes out what is in by itself; use it without --out.")
    alone = next((name for name in ("only", "skip") if settings[name] and not adapters), None)
    if alone is not None:
        raise click.UsageError(f"--{alone} is for adapters that are put in; give --in ADAPTER too.")
    adapters, weights = weighted(adapters, weights)
    check_counts(len(adapters), weights, settings["block_weights"])
    wanted = adapters if adapters or out else None
    run_swap(model, wanted, weights=weights, as_json=as_json, settings=settings)
