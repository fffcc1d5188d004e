"""Options that several commands share, each defined once."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Size(click.ParamType[int]):
    """A number of bytes: `500MB`, `5G`, `1.5GiB`; decimal units unless they have an i."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes that `value` says."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", str(value), re.IGNORECASE)
        if match is None or (match[3] and not match[2]):
            self.fail(f"{value!r} is not a size like 500MB or 5GiB", param, ctx)
        unit = _UNITS[match[2].upper()]
        if match[3]:
            unit = 2 ** (10 * "KMGT".index(match[2].upper()) + 10)
        size = int(float(match[1]) * unit)
        if size < 1:
            self.fail(f"{value!r} is less than a byte", param, ctx)
        return size


def config_option(command: Command) -> Command:
    """`--config`: where an adapter's config is, if not beside it."""
    return click.option(
        "--config",
        type=click.Path(),
        help="The adapter_config.json of an adapter that has none beside it.",
    )(command)


def pickle_option(command: Command) -> Command:
    """`--allow-pickle`: read PyTorch `.bin` files."""
    return click.option(
        "--allow-pickle",
        is_flag=True,
        help="Read adapter_model.bin too, with torch's restricted unpickler.",
    )(command)


def out_proj_option(command: Command) -> Command:
    """`--out-proj`: how often PEFT applied one kind of update."""
    return click.option(
        "--out-proj",
        type=click.Choice(["auto", "once", "twice"]),
        default="auto",
        show_default=True,
        help="How often a MultiheadAttention's out_proj update counts; auto: as the PEFT that "
        "wrote it applied it.",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`: one documented object on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)
