"""Swap adapters in a model's own files, exactly."""

from functools import partial
from typing import Any

import click

from loratools.cli.options import (
    config_option,
    dialect_options,
    jobs_option,
    json_option,
    offline_option,
    pickle_option,
    rounding_options,
    selection_options,
    variant_option,
)
from loratools.cli.swaps import run_swap
from loratools.cli.weights import block_weights_option, check_counts


@click.command("swap", short_help=__doc__)
@click.argument("model", type=click.Path())
@click.option(
    "--in",
    "adapters",
    type=click.Path(),
    multiple=True,
    metavar="ADAPTER",
    help="Put this adapter in, in place of those that are in; several are added up.",
)
@click.option("--out", is_flag=True, help="Take all adapters out: each byte is as it was.")
@click.option(
    "-w",
    "--weight",
    "weights",
    type=float,
    multiple=True,
    help="The weight of each adapter, in order.  [default: 1]",
)
@partial(block_weights_option, of_each=True)
@selection_options
@variant_option
@rounding_options
@jobs_option
@click.option("--dry-run", is_flag=True, help="Check and show the plan; write nothing.")
@click.option(
    "--allow-unmatched", is_flag=True, help="Leave out updates the model has no place for."
)
@click.option("--allow-nonfinite", is_flag=True, help="Write NaNs and infinities.")
@pickle_option
@config_option
@dialect_options
@json_option
@offline_option
@click.option("-v", "--verbose", is_flag=True, help="Show what was done to each weight.")
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
    check_counts(settings, weights, len(adapters))
    wanted = adapters if adapters or out else None
    run_swap(model, wanted, weights=weights, as_json=as_json, settings=settings)
