"""Options that several commands share, each defined once."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import click

from loratools.cli.unknown import OneOf
from loratools.formats import Option, adapter_configs, options

if TYPE_CHECKING:
    import torch

    from loratools.lowrank.ranks import RankRule

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Size(click.ParamType[int]):
    """A number of bytes: `500MB`, `5G`, `1.5GiB`; decimal units unless they have an i."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse `value` as a number of bytes, exactly."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", str(value), re.IGNORECASE)
        if match is None or (match[3] and not match[2]):
            self.fail(f"{value!r} is not a size like 500MB or 5GiB", param, ctx)
        unit = _UNITS[match[2].upper()]
        if match[3]:
            unit = 2 ** (10 * "KMGT".index(match[2].upper()) + 10)
        from fractions import Fraction

        size = int(Fraction(match[1]) * unit)  # exact, and of any number of digits
        if size < 1:
            self.fail(f"{value!r} is less than a byte", param, ctx)
        return size


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
        type=click.Path(),
        help=f"The {' or '.join(adapter_configs())} of an adapter that has none beside it.",
    )(command)


def pickle_option(command: Command) -> Command:
    """`--allow-pickle`: read PyTorch `.bin` files."""
    return click.option(
        "--allow-pickle",
        is_flag=True,
        help="Read adapter_model.bin too, with torch's restricted unpickler.",
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


def json_option(command: Command) -> Command:
    """`--json`: print the report as one JSON object on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


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
        help="Take hf:// names from the cache, and use no network.",
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
        "--skip", multiple=True, metavar="GLOB", help="Leave these weights as they are."
    )
    only = click.option("--only", multiple=True, metavar="GLOB", help="Change only these weights.")
    return only(skip(command))


def rounding_options(command: Command) -> Command:
    """`--rounding` and `--seed`: how the weights of a model are rounded."""
    seed = click.option(
        "--seed", type=int, default=0, show_default=True, help="For stochastic rounding."
    )
    rounding = click.option(
        "--rounding",
        type=OneOf(["nearest", "stochastic"]),
        default="nearest",
        show_default=True,
        help="How results are rounded; stochastic keeps weak updates on average.",
    )
    return rounding(seed(command))


def jobs_option(command: Command) -> Command:
    """`--jobs`: the number of threads."""
    text = "The number of threads.  [default: by the number of cores]"
    return click.option("--jobs", type=click.IntRange(min=1), help=text)(command)


def variant_option(command: Command) -> Command:
    """`--variant`: which of several copies of a model's weights is read."""
    text = "The variant of a model's weights, as in model.NAME.safetensors; none: those without."
    return click.option("--variant", metavar="NAME", help=text)(command)


def modules_option(command: Command) -> Command:
    """`--modules`: a row of the table for each target, not only for groups."""
    return click.option("--modules", is_flag=True, help="Show every target, not only groups.")(
        command
    )


def base_option(command: Command) -> Command:
    """`--base` and `--variant`: a base model for updates that depend on the weights they change."""
    return click.option(
        "--base",
        type=click.Path(),
        help="The base model, to make DoRA and the like additive for it, at the ranks of the rule.",
    )(variant_option(command))


def device_option(command: Command) -> Command:
    """`--device`: the torch device that computes."""
    return click.option(
        "--device",
        metavar="NAME",
        help="The device to compute on: cuda, cuda:1.  [default: cpu]",
    )(command)


def chosen_device(name: str | None) -> "torch.device | None":
    """The device of this name, after a trial; None if no name is given, for the CPU.

    Raises:
        UsageError: there is no such device, or it does not compute in float64.
    """
    if name is None:
        return None
    import torch

    try:
        one = torch.ones((), dtype=torch.float64, device=name)
        one.item()  # fails on torch's `meta` device, whose tensors have no values
        return one.device
    # torch raises any of these where it was built without the device, or the device lacks float64.
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise click.UsageError(f"Device {name!r} cannot be used: {reason}") from error


def where_option(command: Command) -> Command:
    """`--where`: a factor for the strength of the targets that match a glob."""
    return click.option(
        "--where",
        multiple=True,
        type=GlobFactor(),
        metavar="GLOB=F",
        help="Multiply the strength of targets that match by F; the last match counts.",
    )(command)


def output_options(command: Command) -> Command:
    """`-o`, `--overwrite`, `--dry-run`: where an adapter is written, and whether."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Compute and report; write nothing."),
        click.option("--overwrite", is_flag=True, help="Replace an output that exists."),
        click.option("-o", "--output", type=click.Path(), help="Where the adapter is written."),
    ):
        command = option(command)
    return command


def checked_output(output: str | None, *, dry_run: bool) -> str | None:
    """The path of the output; None in a dry run.

    Raises:
        UsageError: no output is given, and it is not a dry run.
    """
    if output is None and not dry_run:
        raise click.UsageError("Missing option '-o' / '--output' (or use --dry-run).")
    return None if dry_run else output


_RANK_OPTIONS = (
    click.option("--rank", type=int, metavar="R", help="Exactly this rank for every target."),
    click.option(
        "--energy", type=float, metavar="E", help="Keep this share of each update's energy, Σσ²."
    ),
    click.option(
        "--error", type=float, metavar="E", help="Lose at most this share of each update's norm."
    ),
    click.option(
        "--size", type=Size(), help="A budget for the file, e.g. 64MB; the best ranks within it."
    ),
    click.option(
        "--parameters", type=int, metavar="N", help="A budget for the number of parameters."
    ),
    click.option("--max-rank", type=int, metavar="R", help="No rank above this."),
    click.option("--min-rank", type=int, metavar="R", help="No rank below this."),
    click.option("--multiple-of", type=int, metavar="N", help="Round ranks up to a multiple."),
    click.option("--uniform", is_flag=True, help="One rank for all targets."),
)


def rank_options(command: Command) -> Command:
    """The options of a rank rule: one goal, and bounds for the ranks."""
    # Click shows first what was added last, as with decorators one above the other.
    for option in reversed(_RANK_OPTIONS):
        command = option(command)
    return command


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
