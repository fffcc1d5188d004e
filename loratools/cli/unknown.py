"""What was probably meant by a command, an option or a value that does not exist."""

import os
import re
from collections.abc import Collection, Sequence

import click

from loratools.errors import listing
from loratools.nearest import meant, nearest, number_meant, ours
from loratools.other_words import ARGUMENTS, COMMANDS

#: What is answered to what other programs have options for, or another verb.
_BY_RESCALE = "`loratools rescale --block-weights` writes an adapter with them"
_ELSEWHERE = {
    "--token": "set HF_TOKEN, or log in with `hf auth login`",
    "--debug": "set LORATOOLS_DEBUG=1",
    **dict.fromkeys(("--block-weights", "--lbw", "--lbws"), _BY_RESCALE),
}
#: The options that are most often meant by an argument too many, the first that a verb has.
_USUAL = ("--in", "-o")
#: What other programs have commands for, and are options of the program here.
_OPTIONS_ELSEWHERE = ("help", "version")
#: Shorter words than this, of an option, are like too many others.
_SHORTEST = 3


def no_such_command(args: Sequence[str], commands: list[str]) -> str:
    """The message for arguments of which the first is no command."""
    name, *rest = args
    if not name:
        return "The command is an empty text; loratools --help lists all commands"
    if name in _OPTIONS_ELSEWHERE:
        verb = f"{rest[0]} " if name == "help" and rest and rest[0] in commands else ""
        return f"No such command {name!r}; did you mean loratools {verb}--{name}?"
    found = meant(name, commands, COMMANDS)
    if found is None and (re.search(r"[/.\\]", name) or os.path.lexists(name)):
        return f"No such command {name!r}; did you mean loratools inspect {name}?"
    if found is None:
        return f"No such command {name!r}; loratools --help lists all commands"
    return f"No such command {name!r}; did you mean loratools {found}?"


def no_such_option(error: click.NoSuchOption, context: click.Context) -> click.UsageError:
    """The error for an option that a verb does not have, with what was meant, if known."""
    name = error.option_name
    hint = _instead_of_option(name, context)
    text = f"No such option {name!r}" + (f"; {hint}" if hint else ".")
    return click.NoSuchOption(name, text, ctx=context)


def _instead_of_option(name: str, context: click.Context) -> str | None:
    """What to write in place of an option that a verb does not have.

    That is an option or an argument that other programs call so; an option that is spelled nearly
    so; or another verb, which has the option.
    """
    plain = name.lower().replace("_", "-")
    params = {str(param.name).replace("_", "-"): param for param in context.command.params}
    word = plain.lstrip("-")
    same = params.get(word) or params.get(ours(word, ARGUMENTS, params) or "")
    if isinstance(same, click.Option):
        return f"did you mean {max(same.opts, key=len)!r}?"
    if same is not None:
        usage = " ".join(context.command.collect_usage_pieces(context)[1:])
        return f"it is an argument: {context.command_path} {usage}"
    if plain in _ELSEWHERE:
        return _ELSEWHERE[plain]
    known = {option for param in params.values() for option in param.opts if option[0] == "-"}
    if (found := _spelled_like(plain, known)) is not None:
        return f"did you mean {found!r}?"
    others = _verbs_with(name, context)
    return f"it is an option of {listing(others, 3)}" if others else None


def _spelled_like(plain: str, known: Collection[str]) -> str | None:
    """The option that begins with a word, or is most like it; their dashes say nothing."""
    names = {option.lstrip("-"): option for option in sorted(known) if option.startswith("--")}
    word = plain.lstrip("-")
    if len(word) < _SHORTEST:
        return None
    begun = min((name for name in names if name.startswith(word)), key=len, default=None)
    found = begun or nearest(word, names)
    return found and names[found]


def _verbs_with(option: str, context: click.Context) -> list[str]:
    """The verbs that have an option of this name."""
    group = context.parent.command if context.parent else None
    if not isinstance(group, click.Group):
        return []
    verbs = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return [
        f"loratools {name}"
        for name, verb in verbs.items()
        if verb and any(option in param.opts for param in verb.params)
    ]


def refuse_short_with_equals(args: Sequence[str], context: click.Context) -> None:
    """Refuse `-o=out`, of which the parser would make an output called `=out`.

    Raises:
        UsageError: a short option of the verb is written so.
    """
    shorts = {opt: param for param in context.command.params for opt in param.opts if len(opt) == 2}
    for word in args[: args.index("--")] if "--" in args else args:
        param = shorts.get(word[:2])
        if param is not None and word[2:3] == "=":
            is_flag = isinstance(param, click.Option) and param.is_flag
            instead = word[:2] if is_flag else f"{word[:2]} {word[3:]}"
            raise click.UsageError(
                f"{word!r}: no = stands after an option of one letter; write {instead}", context
            )


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


def plain(text: str) -> str:
    """A message of Click's without words that are a programmer's."""
    text = re.sub(r"is not a valid float\.$", "is not a number.", text)
    return re.sub(r"is not a valid integer\.$", "is not a whole number.", text)


def advice(error: click.UsageError) -> str:
    """The end of the message of an error that says only what is wrong: what to give, or help."""
    text = error.format_message()
    if found := re.search(r"'([^']*)' is not a valid (float|integer)\.$", text):
        if found[2] == "integer":
            return " Give a number, such as 8."
        number = number_meant(found[1])
        return f" Did you mean {number}?" if number else " Give a number, such as 0.5."
    is_bare = isinstance(error, click.MissingParameter) or (
        isinstance(error, click.NoSuchOption) and ";" not in text
    )
    if error.ctx is None:
        return ""
    if bare := re.match(r"Option '([^']+)' requires an argument\.$", text):
        return f" Give {_with_value(bare[1], error.ctx)}."
    if extra := re.match(r"Got unexpected extra arguments? \(([^;]*)\)[^;]*$", text):
        return f"; {_option_of_numbers(extra[1], error.ctx) or _all_arguments(error.ctx)}"
    if not is_bare:
        return ""
    return f"{'' if text.endswith('.') else '.'} See {error.ctx.command_path} --help."


def _with_value(option: str, context: click.Context) -> str:
    """How to write an option that was given without a value."""
    param = next(param for param in context.command.params if option in param.opts)
    return f"{option} {param.make_metavar(context)}"


def _all_arguments(context: click.Context) -> str:
    """What arguments there are, where one too many was given."""
    usage = " and ".join(context.command.collect_usage_pieces(context)[1:]) or "no argument"
    known = {option for param in context.command.params for option in param.opts}
    first = next((f", such as {option}" for option in _USUAL if option in known), "")
    path = context.command_path
    return f"{path} takes {usage}, and all else by options{first}: see {path} --help"


def _option_of_numbers(words: str, context: click.Context) -> str | None:
    """What to write in place of numbers that stand alone; None if they are something else."""
    try:
        numbers = [float(word) for word in words.split()]
    except ValueError:
        return None
    known = {option for param in context.command.params for option in param.opts}
    if "--weight" in known:
        return "several weights are one list without spaces: -w 0.7,0.3"
    option = next((option for option in ("--strength", "--rank") if option in known), None)
    return f"did you mean {option} {words}?" if option and len(numbers) == 1 else None
