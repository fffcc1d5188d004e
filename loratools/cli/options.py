"""Other options that several commands share, each defined once."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from loratools.cli.command import Command
from loratools.cli.values import Count, GlobFactor, OneOf
from loratools.errors import OptionError

if TYPE_CHECKING:
    import torch


def selection_options(command: Command) -> Command:
    """`--only` and `--skip`: the weights of a model that may change."""
    skip = click.option(
        "--skip", multiple=True, metavar="GLOB", help="Leave tensors that match as they are."
    )
    only = click.option(
        "--only", multiple=True, metavar="GLOB", help="Change only tensors that match."
    )
    return only(skip(command))


def allow_unmatched_option(command: Command) -> Command:
    """`--allow-unmatched`: leave out updates of what the model lacks."""
    text = "Leave out updates that the model has no place for; the report names them."
    return click.option("--allow-unmatched", is_flag=True, help=text)(command)


def allow_nonfinite_option(command: Command) -> Command:
    """`--allow-nonfinite`: write NaNs and infinities."""
    text = "Write NaNs and infinities too, which are refused otherwise."
    return click.option("--allow-nonfinite", is_flag=True, help=text)(command)


def rounding_options(command: Command) -> Command:
    """`--rounding` and `--seed`: how the weights of a model are rounded."""
    seed = click.option(
        "--seed",
        type=int,
        metavar="N",
        default=0,
        show_default=True,
        help="The seed of the random choices of --rounding stochastic.",
    )
    rounding = click.option(
        "--rounding",
        type=OneOf(["nearest", "stochastic"]),
        default="nearest",
        show_default=True,
        help="How results are rounded to the dtype of the model. Stochastic rounding keeps, on "
        "average, updates that are too weak to change a rounded number.",
    )
    return rounding(seed(command))


def rounding_seed(settings: Mapping[str, Any]) -> int | None:
    """The seed of stochastic rounding; None rounds to nearest.

    Raises:
        UsageError: a seed was given for rounding to nearest.
    """
    if settings["rounding"] == "stochastic":
        seed: int = settings["seed"]
        return seed
    if is_given("seed"):
        raise click.UsageError("--seed is for --rounding stochastic.")
    return None


def is_given(name: str) -> bool:
    """Whether the parameter of this name was typed."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def jobs_option(command: Command) -> Command:
    """`--jobs`: the number of threads."""
    text = "The number of threads; the result does not depend on it.  [default: one for each core]"
    return click.option("--jobs", type=Count(min=1), metavar="N", help=text)(command)


def modules_option(command: Command) -> Command:
    """`--modules`: a row of the table for each target, not only for groups."""
    text = "Show a row for every target, not only for groups of them."
    return click.option("--modules", is_flag=True, help=text)(command)


def device_option(command: Command) -> Command:
    """`--device`: the torch device that computes."""
    return click.option(
        "--device",
        metavar="NAME",
        help="The device that computes, such as cuda or cuda:1.  [default: cpu]",
    )(command)


def chosen_device(name: str | None) -> "torch.device | None":
    """The device of this name, after a trial; None if no name is given, for the CPU.

    Raises:
        UsageError: there is no such device, or it does not compute in float64.
    """
    if name is None:
        return None
    from loratools.lowrank.devices import usable_device

    try:
        return usable_device(name)
    except OptionError as error:
        text = str(error)
        raise click.UsageError(f"{text[0].upper()}{text[1:]}") from error


def where_option(command: Command) -> Command:
    """`--where`: a factor for the strength of the targets that match a glob."""
    return click.option(
        "--where",
        multiple=True,
        type=GlobFactor(),
        metavar="GLOB=F",
        help="Multiply the strength of targets that match by F; of several, the last counts.",
    )(command)
