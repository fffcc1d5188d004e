"""The methods of `combine` in its help, and the command-line options that they take."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from loratools.cli.command import Command, Verb
from loratools.cli.values import OneOf

#: Click's settings for each option, by the name of its field in `MethodOptions`.
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "density": {
        "type": float,
        "metavar": "D",
        "help": "Keep this share of the entries of each update, above 0 and at most 1.",
    },
    "gamma": {
        "type": float,
        "metavar": "G",
        "help": "Remove this share of the entries, the largest ones; from 0 to below 1.",
    },
    "epsilon": {
        "type": float,
        "metavar": "E",
        "help": "The difference between the largest and the smallest probability of keeping an "
        "entry; from 0 to below 1.",
    },
    "rescale": {
        "default": None,
        "help": "Divide entries that are kept at random by the probability of keeping them.",
    },
    "majority_sign_method": {
        "type": OneOf(["total", "frequency"]),
        "help": "Elect the sign of each entry by the sum of the values, or of their signs.",
    },
    "normalize": {"default": None, "help": "Write a mean of the updates instead of their sum."},
    "lam": {"type": float, "metavar": "L", "help": "Multiply the result by this."},
    "select_topk": {
        "type": float,
        "metavar": "K",
        "help": "Combine this share of the entries, those that differ most; above 0 and at most 1.",
    },
    "t": {
        "type": float,
        "metavar": "T",
        "help": "How far to go from the first adapter (0) to the second (1).",
    },
}
_FLAGS = {"rescale": "--rescale/--no-rescale", "normalize": "--normalize/--no-normalize"}
#: The methods that choose at random.
RANDOM_METHODS = ("dare_linear", "dare_ties", "della")
#: What each method does, and the options that it takes, with their defaults. The methods say so
#: themselves, but importing them imports torch, which is too slow for a help.
METHODS: dict[str, tuple[str, dict[str, str]]] = {
    "linear": ("The sum of the updates.", {"normalize": "no", "lam": "1"}),
    "slerp": ("A point on the arc between two updates.", {"t": "0.5", "lam": "1"}),
    "knots": (
        "TIES in a basis that all updates share.",
        {"density": "1", "majority_sign_method": "total", "normalize": "yes", "lam": "1"},
    ),
    "ties": (
        "Keep the largest entries, elect a sign for each, and average those that have it.",
        {"density": "0.2", "majority_sign_method": "total", "normalize": "yes", "lam": "1"},
    ),
    "dare_linear": (
        "Drop entries at random, then add.",
        {"density": "0.5", "rescale": "yes", "normalize": "no", "lam": "1"},
    ),
    "dare_ties": (
        "Drop entries at random, then elect and average as TIES does.",
        {
            "density": "0.5",
            "rescale": "yes",
            "majority_sign_method": "total",
            "normalize": "yes",
            "lam": "1",
        },
    ),
    "della": (
        "As dare_ties, but small entries are dropped more often.",
        {
            "density": "0.5",
            "epsilon": "0.2",
            "rescale": "yes",
            "majority_sign_method": "total",
            "normalize": "yes",
            "lam": "1",
        },
    ),
    "magnitude_prune": (
        "Keep the largest entries, then add.",
        {"density": "0.2", "normalize": "no", "lam": "1"},
    ),
    "breadcrumbs": (
        "Keep neither the largest entries nor the smallest, then add.",
        {"density": "0.14", "gamma": "0.01", "normalize": "no", "lam": "1"},
    ),
    "sce": (
        "Keep the entries that differ most, and weigh adapters by how large they are there.",
        {"select_topk": "0.1", "lam": "1"},
    ),
}
METHOD_SECTION = "Options of the methods"
#: The methods whose results have low rank, so that they need no rank rule.
LOW_RANK = ("linear", "slerp", "knots")


class CombineVerb(Verb):
    """The command `combine`, whose help explains the methods too."""

    def format_section(
        self, formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]
    ) -> None:
        """Write one section of the options; before those of the methods, the methods."""
        if title == METHOD_SECTION:
            with formatter.section("Methods (--method), with their options and defaults"):
                formatter.write_dl(list(_method_rows()))
                formatter.write_paragraph()
                formatter.write_text(
                    f"{', '.join(LOW_RANK[:-1])} and {LOW_RANK[-1]} need no rank rule. The others "
                    "make updates of full rank, and need one. All methods take --lambda."
                )
        super().format_section(formatter, title, rows)


def _method_rows() -> Iterator[tuple[str, str]]:
    for name, (text, options) in METHODS.items():
        own = (_taken(option, default) for option, default in options.items() if option != "lam")
        yield name, f"{text} Options: {', '.join(own)}."


def _taken(option: str, default: str) -> str:
    """An option as it is by default: `--density 0.2`, `--no-normalize`."""
    if option in _FLAGS:
        return _FLAGS[option].split("/")[0 if default == "yes" else 1]
    return f"{_flag(option)} {default}"


def _flag(option: str) -> str:
    return "--lambda" if option == "lam" else f"--{option.replace('_', '-')}"


def method_options(command: Command) -> Command:
    """The options of all methods; a method refuses those that it does not take."""
    for name, settings in reversed(METHOD_OPTIONS.items()):
        takers = [method for method, (_, options) in METHODS.items() if name in options]
        who = "all methods" if len(takers) == len(METHODS) else ", ".join(takers)
        text = f"{settings['help']}  [{who}]"
        option = click.option(_FLAGS.get(name, _flag(name)), name, **{**settings, "help": text})
        command = option(command)
    return command
