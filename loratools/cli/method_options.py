"""The command-line options of `combine`'s methods."""

from typing import Any

import click

from loratools.cli.options import Command
from loratools.cli.unknown import OneOf

#: Click's settings for each option, by the name of its field in `MethodOptions`.
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "density": {"type": float, "metavar": "D", "help": "Keep this share of the entries."},
    "gamma": {"type": float, "metavar": "G", "help": "Remove this share of the largest entries."},
    "epsilon": {"type": float, "metavar": "E", "help": "Spread of the probabilities to keep."},
    "rescale": {"default": None, "help": "Make up for entries that are dropped at random."},
    "majority_sign_method": {
        "type": OneOf(["total", "frequency"]),
        "help": "Elect signs by values or by counts.",
    },
    "normalize": {"default": None, "help": "Divide by the sum of the weights."},
    "lam": {"type": float, "metavar": "L", "help": "Multiply the result."},
    "select_topk": {"type": float, "metavar": "K", "help": "Combine this share of the entries."},
    "t": {"type": float, "metavar": "T", "help": "How far from the first (0) to the second (1)."},
}
_SPELLED = {"rescale": "--rescale/--no-rescale", "normalize": "--normalize/--no-normalize"}


def method_options(command: Command) -> Command:
    """The options of all methods; a method refuses those that it does not take."""
    for name, settings in reversed(METHOD_OPTIONS.items()):
        flag = "--lambda" if name == "lam" else f"--{name.replace('_', '-')}"
        command = click.option(_SPELLED.get(name, flag), name, **settings)(command)
    return command
