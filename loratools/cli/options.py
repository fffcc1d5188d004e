"""Options that several commands share, each defined once."""

import os
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import click
from click.core import ParameterSource

from loratools.cli.command import PATH, section
from loratools.cli.unknown import OneOf
from loratools.errors import OptionError
from loratools.formats import Option, adapter_configs, options
from loratools.io.sizes import size_in_bytes

if TYPE_CHECKING:
    import torch

    from loratools.lowrank.ranks import RankRule

Command = TypeVar("Command", bound=Callable[..., Any])


class Size(click.ParamType[int]):
    """A number of bytes: `500MB`, `5G`, `1.5GiB`; decimal units unless they have an i."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `value` as a number of bytes, exactly."""
        try:
            size: int = size_in_bytes(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)
        return size


class Count(click.IntRange):
    """A whole number from 1 on, which is called an integer in messages."""

    name = "integer"


class ValueOrNumber(click.ParamType[str]):
    """A value of a dialect's option that may also be a number: `auto`, `16`."""

    name = "value or number"

    def __init__(self, option: Option) -> None:
        self._option = option

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The values and the name of the number, as `--help` shows them."""
        return f"[{'|'.join((*self._option.values, str(self._option.number)))}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself, if the option can have this value."""
        if not self._option.takes(value):
            self.fail(f"{value!r} is not {self._option.choices}", param, ctx)
        return str(value)


def config_option(command: Command) -> Command:
    """`--config`: where an adapter's config is, if not beside it."""
    return click.option(
        "--config",
        type=PATH,
        metavar="FILE",
        help=f"The {' or '.join(adapter_configs())} of an adapter that has none beside it.",
    )(command)


def pickle_option(command: Command) -> Command:
    """`--allow-pickle`: read PyTorch `.bin` files."""
    return click.option(
        "--allow-pickle",
        is_flag=True,
        help="Read PyTorch's .bin, .pt and .pth files too, without running code that is in them.",
    )(command)


def dialect_options(command: Command, *, without: Collection[str] = ()) -> Command:
    """The options that dialects declare; the command gets their values as `dialect_options`.

    The command has no option for those `without`, which answer what one of its own does.
    """
    declared = [option for option in options() if option.name not in without]

    @wraps(command)
    def gathered(**settings: Any) -> Any:
        given = {option.name: settings.pop(option.name) for option in declared}
        values = {n: "\n".join(v) if isinstance(v, tuple) else v for n, v in given.items()}
        return command(**settings, dialect_options={n: v for n, v in values.items() if v})

    for option in reversed(declared):
        gathered = _dialect_option(option)(gathered)
    return cast("Command", gathered)


def _dialect_option(option: Option) -> Callable[[Any], Any]:
    flag = f"--{option.name.replace('_', '-')}"
    if option.text is not None:
        return click.option(flag, option.name, metavar=option.text, multiple=True, help=option.help)
    return click.option(
        flag,
        option.name,
        type=OneOf(option.values) if option.number is None else ValueOrNumber(option),
        default=option.default,
        show_default=True,
        help=option.help,
    )


def reading_options(command: Command, *, without: Collection[str] = ()) -> Command:
    """What the files of an adapter may leave open: its config, a pickle, options of dialects."""
    dialects = partial(dialect_options, without=without)
    reading = section("Reading unusual adapters", config_option, pickle_option, dialects)
    return cast("Command", reading(command))


def asks_for_json() -> bool:
    """Whether `--json` is on the command line, which may be one that cannot be parsed."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def json_option(command: Command) -> Command:
    """`--json`: print the report as one JSON object on stdout, and an error as one on stderr."""
    return click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")(
        command
    )


class Report(Protocol):
    """The result of a verb, which can be printed as JSON."""

    def to_json(self) -> dict[str, Any]:
        """The report as a documented JSON object."""
        ...


def print_json(report: Report) -> None:
    """Print a report as JSON, for `--json`."""
    click.echo(report_json(report))


def report_json(report: Report) -> str:
    """A report as JSON text."""
    from loratools.io.json import json_text

    # A path that is not UTF-8 is printed with escapes, which mean the same in JSON.
    return json_text(report.to_json(), indent=2)


def offline_option(command: Command) -> Command:
    """`--offline`: take `hf://` names from the cache, and use no network."""
    return click.option(
        "--offline",
        is_flag=True,
        expose_value=False,
        callback=_go_offline,
        help="Use no network: take hf:// names from what was downloaded before.",
    )(command)


def _go_offline(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    # The Hub's client reads the variable when it is imported, which happens later.
    if value:
        os.environ["HF_HUB_OFFLINE"] = "1"


class GlobFactor(click.ParamType[tuple[str, float]]):
    """A glob and a number: `model.layers.[0-9].*=0.5`."""

    name = "glob=number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """Parse `value` into the glob and the number after the last `=`."""
        if isinstance(value, tuple):
            return value
        glob, _, number = str(value).rpartition("=")
        try:
            strength = float(number if glob else "")
        except ValueError:
            self.fail(f"{value!r} is not a pattern and a number, like '*.mlp.*=0.5'", param, ctx)
        return glob, strength


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


def variant_option(command: Command) -> Command:
    """`--variant`: which of several copies of a model's weights is read."""
    text = "Read the weights of a model from its files model.NAME.safetensors, such as fp16; "
    text += "none: from those without a name."
    return click.option("--variant", metavar="NAME", help=text)(command)


def modules_option(command: Command) -> Command:
    """`--modules`: a row of the table for each target, not only for groups."""
    text = "Show a row for every target, not only for groups of them."
    return click.option("--modules", is_flag=True, help=text)(command)


def base_option(command: Command) -> Command:
    """`--base` and `--variant`: a base model for updates that depend on the weights they change."""
    return click.option(
        "--base",
        type=PATH,
        metavar="BASE",
        help="The base model. With it, DoRA and other updates that depend on the weights of the "
        "base become LoRA for this base, at the ranks that you choose.",
    )(variant_option(command))


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


def output_options(command: Command) -> Command:
    """`-o`, `--overwrite`, `--dry-run`: where an adapter is written, and whether."""
    return section(
        "Output",
        click.option(
            "-o",
            "--output",
            type=PATH,
            metavar="PATH",
            help="Where the adapter is written: a new folder, or a new file if the format is a "
            "single file.",
        ),
        overwrite_option,
        dry_run_option,
    )(command)


def overwrite_option(command: Command) -> Command:
    """`--overwrite`: replace an output that exists."""
    return click.option("--overwrite", is_flag=True, help="Replace an output that exists.")(command)


def dry_run_option(command: Command) -> Command:
    """`--dry-run`: do everything but write."""
    text = "Check and report, but write nothing."
    return click.option("--dry-run", is_flag=True, help=text)(command)


def checked_output(output: str | None, *, dry_run: bool) -> str | None:
    """The path of the output; None in a dry run.

    Raises:
        UsageError: no output is given, and it is not a dry run.
    """
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output' (or use --dry-run).")
    return None if dry_run else output


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
