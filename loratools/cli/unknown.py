"""What was probably meant by a command, an option or a value that does not exist."""

import os
import re
from collections.abc import Sequence
from typing import Any

import click

from loratools.nearest import did_you_mean, meant

#: What other programs call the options.
_OTHER_OPTIONS = {
    "--overwrite": ("--force", "-f", "--yes", "-y", "--exist-ok", "--clobber", "--replace"),
    "--weight": ("--strength", "--multiplier", "--ratio", "--factor", "--lora-scale"),
    "--block-weights": ("--lbw", "--lbws"),
    "--strength": ("--weight", "-w", "--multiplier", "--factor", "--scale-factor"),
    "--dtype": ("--precision", "--torch-dtype", "--save-precision", "--type", "--outtype"),
    "--output": ("--save-to", "--output-dir", "--out-dir", "--dest", "--destination"),
    "--rank": ("--dim", "--new-rank", "-r", "--network-dim"),
    "--to": ("--format", "--target", "-t"),
    "--dry-run": ("-n", "--simulate", "--check"),
}
#: What a verb without an option is answered, where another verb has it.
_ELSEWHERE = {
    "--block-weights": "`loratools rescale --block-weights` writes an adapter with them",
}


class OneOf(click.Choice[str]):
    """One of several values; another one is answered by the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """`value`, if it is one of the choices."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            hint = did_you_mean(str(value), self.choices)
            self.fail(error.message.removesuffix(".") + (hint or "."), param, ctx)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:
        """The choices on one line, as messages are; Click's own has a line for each."""
        return f"Choose from {', '.join(self.choices)}."


def no_such_command(name: str, commands: list[str]) -> str:
    """The message for a first argument that is no command."""
    if not name:
        return "The command is an empty text; loratools --help lists all commands"
    found = meant(name, commands)
    if found is None and (re.search(r"[/.\\]", name) or os.path.lexists(name)):
        return f"No such command {name!r}; did you mean loratools inspect {name}?"
    if found is None:
        return f"No such command {name!r}; loratools --help lists all commands"
    return f"No such command {name!r}; did you mean loratools {found}?"


def no_such_option(error: click.NoSuchOption, context: click.Context) -> click.UsageError:
    """The error for an option that a verb does not have, with the one that was meant, if known."""
    name = error.option_name
    known = {option for param in context.command.params for option in param.opts}
    for option, words in _OTHER_OPTIONS.items():
        if option in known and name in words:
            text = f"No such option {name!r}; did you mean {option!r}?"
            return click.NoSuchOption(name, text, ctx=context)
        if option in _ELSEWHERE and name in (option, *words):
            return click.UsageError(f"No such option {name!r}; {_ELSEWHERE[option]}.", ctx=context)
    return error


def names_of_files(args: Sequence[str], context: click.Context) -> click.UsageError | None:
    """The error for the first of the arguments that is a file, and looks like an option."""
    name = next((arg for arg in args if arg.startswith("-") and os.path.lexists(arg)), None)
    if name is None:
        return None
    return click.UsageError(f"{name!r} is read as options; write ./{name}", ctx=context)


def option_of_a_command(
    error: click.NoSuchOption, command: str, context: click.Context
) -> click.UsageError:
    """The error for an option of a command that stands before it."""
    name = error.option_name
    return click.UsageError(
        f"No such option {name!r} before a command; write it after, as in "
        f"loratools {command} {name}",
        ctx=context,
    )


def advice(error: click.UsageError) -> str:
    """The end of the message of an error that says only what is wrong: what to give, or help."""
    text = error.format_message()
    if found := re.search(r"is not a valid (float|integer)( range)?\.$", text):
        return " Give a number, such as " + ("0.5." if found[1] == "float" else "8.")
    is_bare = isinstance(error, click.MissingParameter) or (
        isinstance(error, click.NoSuchOption)
        and not error.possibilities
        and "; did you mean" not in text
    )
    is_extra = re.match("Got unexpected extra argument[^;]*$", text) is not None
    if error.ctx is None or not (is_bare or is_extra):
        return ""
    return f"{'' if text.endswith('.') else '.'} See {error.ctx.command_path} --help."
