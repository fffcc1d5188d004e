"""Options in messages: each that is advised can be typed, in Python and in a shell."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields

import click
import pytest

import loratools
from loratools import typed
from loratools.cli import cli
from loratools.formats import options as dialect_options
from tests.wording import package_trees, shell_words

_WORDING = {"valued", "flag", "option", "one_of"}


def advised(functions: set[str]) -> Iterator[tuple[str, str]]:
    """Each option that the package words: by which function, and its name."""
    for tree in package_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in functions:
                assert isinstance(node.func, ast.Name)
                if node.args and isinstance(name := node.args[0], ast.Constant):
                    yield node.func.id, str(name.value)


def in_python(word: str) -> bool:
    """Whether an argument, or the object with a field, is in the API of Python."""
    name, call, field = word.partition("(")
    if not call:
        functions = [one for one in PUBLIC.values() if inspect.isfunction(one)]
        return any(name.partition("=")[0] in inspect.signature(f).parameters for f in functions)
    return field.partition("=")[0] in {each.name for each in fields(PUBLIC[name])}


PUBLIC = {name: getattr(loratools, name) for name in loratools.__all__}
WORDED = {
    name: typed.option(name, "x") if function == "option" else getattr(typed, function)(name)
    for function, name in advised(_WORDING - {"one_of"})
} | {name: typed.one_of(name, "x") for _, name in advised({"one_of"})}


@pytest.mark.parametrize("name", sorted(WORDED))
def test_an_option_that_is_advised_is_there(name: str) -> None:
    assert in_python(WORDED[name]), WORDED[name]
    with typed.on_command_line():
        flags = {flag for command in commands() for p in command.params for flag in p.opts}
        assert typed.as_typed(name) in flags


def commands() -> Iterator[click.Command]:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield command


def test_an_option_of_a_format_that_is_advised_is_there() -> None:
    known = {option.name for option in dialect_options()}
    names = {name for _, name in advised({"of_format"})}
    assert names
    assert names <= known


def test_each_reader_has_words_of_his_own() -> None:
    def said() -> list[str]:
        return [
            typed.one_of("skip", "*.q"), typed.option("dtype", "float32"), typed.valued("full"),
            typed.flag("keep_replaced"), typed.of_format("scale", "20"), typed.of_format("keys"),
        ]  # fmt: skip

    assert said() == [
        "skip=['*.q']", "dtype='float32'", "ExtractOptions(full=…)",
        "Rescaling(keep_replaced=True)", "dialect_options={'scale': '20'}",
        "dialect_options={'keys': …}",
    ]  # fmt: skip
    with typed.on_command_line():
        assert said() == [
            "--skip '*.q'", "--dtype float32", "--full", "--keep-replaced", "--scale 20", "--keys",
        ]  # fmt: skip


def test_words_of_a_shell_are_found_in_python() -> None:
    for text in ("use --rank 8", "`rescale --fold` does", "a; loratools push sends it"):
        assert shell_words(text), text
        with typed.on_command_line():
            assert shell_words(text) == []
    assert shell_words("models--ann--base: a--b, use rank=8; loratools reads and merges peft") == []
