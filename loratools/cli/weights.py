"""The options for weights of blocks, and the check that there are as many weights as adapters."""

from collections.abc import Collection, Mapping
from typing import Any

import click

from loratools.cli.options import Command
from loratools.errors import counted


def block_weights_option(command: Command, *, of_each: bool = False) -> Command:
    """`--block-weights`: the weights of blocks as a text; with `of_each`, one for each adapter."""
    each = "For each adapter, in order: w" if of_each else "W"
    return click.option(
        "--block-weights",
        metavar="WEIGHTS",
        multiple=of_each,
        help=f"{each}eights of blocks, as 1,0,0.5,… or OUTD or IN04=0.5,OUT00-OUT05=0.",
    )(command)


def check_counts(settings: Mapping[str, Any], weights: Collection[float], adapters: int) -> None:
    """Refuse weights and block weights that are given, and not for each of the adapters.

    Raises:
        UsageError: there are more or fewer.
    """
    blocks = settings["block_weights"]
    for given, what, option in (
        (weights, "weight", "-w"),
        (blocks, "block weight", "--block-weights"),
    ):
        if given and len(given) != adapters:
            raise click.UsageError(
                f"{counted(len(given), what)} ({option}) for {counted(adapters, 'adapter')}."
            )
