"""The options that say how many ranks to keep."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from loratools.cli.command import Command, section
from loratools.cli.values import Size

if TYPE_CHECKING:
    from loratools.lowrank.ranks import RankRule


_GOALS = (
    click.option("--rank", type=int, metavar="R", help="This rank for every target."),
    click.option(
        "--energy",
        type=float,
        metavar="E",
        help="The least ranks that keep this share of the energy of each update (the sum of its "
        "squared singular values), above 0 and at most 1: 0.95 keeps 95%.",
    ),
    click.option(
        "--error",
        type=float,
        metavar="E",
        help="The least ranks that lose at most this share of the norm of each update, from 0 "
        "to below 1.",
    ),
    click.option(
        "--size",
        type=Size(),
        metavar="SIZE",
        help="The best ranks for a file of at most this size, such as 64MB (or 64MiB, of 1024² "
        "bytes).",
    ),
    click.option(
        "--parameters",
        type=int,
        metavar="N",
        help="The best ranks with at most this many parameters.",
    ),
)


_BOUNDS = (
    click.option("--max-rank", type=int, metavar="R", help="No rank above this."),
    click.option("--min-rank", type=int, metavar="R", help="No rank below this."),
    click.option(
        "--multiple-of", type=int, metavar="N", help="Round each rank up to a multiple of N."
    ),
    click.option("--uniform", is_flag=True, help="The same rank for all targets."),
)


def rank_options(command: Command) -> Command:
    """The options of a rank rule: one goal, and bounds for the ranks."""
    bounds = section("Bounds of the ranks", *_BOUNDS)
    return section("Ranks (choose one rule)", *_GOALS)(bounds(command))


def rank_rule(settings: Mapping[str, Any]) -> "RankRule | None":
    """The rule that the rank options give, without `--size`; None where none of them is used."""
    from loratools.lowrank.ranks import RankRule

    names = ("rank", "energy", "error", "parameters", "max_rank", "min_rank", "multiple_of")
    given = {name: settings[name] for name in names if settings[name] is not None}
    if settings["uniform"]:
        given["uniform"] = True
    if not given:
        return None
    return RankRule(**given)
