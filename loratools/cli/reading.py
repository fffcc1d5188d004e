"""The options for what is read, and how: unusual adapters, variants of a model, the Hub's cache."""

import os
from collections.abc import Callable, Collection
from functools import partial, wraps
from typing import Any, cast

import click

from loratools.cli.command import PATH, Command, section
from loratools.cli.values import OneOf, ValueOrNumber
from loratools.formats import Option, adapter_configs, options


def reading_options(command: Command, *, without: Collection[str] = ()) -> Command:
    """What the files of an adapter may leave open: its config, a pickle, options of dialects."""
    dialects = partial(dialect_options, without=without)
    reading = section("Reading unusual adapters", config_option, pickle_option, dialects)
    return cast("Command", reading(command))


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


def variant_option(command: Command) -> Command:
    """`--variant`: which of several copies of a model's weights is read."""
    text = "Read the weights of a model from its files model.NAME.safetensors, such as fp16; "
    text += "none: from those without a name."
    return click.option("--variant", metavar="NAME", help=text)(command)


def base_option(command: Command) -> Command:
    """`--base` and `--variant`: a base model for updates that depend on the weights they change."""
    return click.option(
        "--base",
        type=PATH,
        metavar="BASE",
        help="The base model. With it, DoRA and other updates that depend on the weights of the "
        "base become LoRA for this base, at the ranks that you choose.",
    )(variant_option(command))


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
