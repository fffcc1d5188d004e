"""Help is complete, fits its terminal, and its examples do what they say."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from loratools import methods, registry
from loratools.cli import cli
from loratools.cli.command import Verb
from loratools.cli.method_options import LOW_RANK, METHODS
from loratools.methods import MethodOptions
from tests.e2e.commands import FIXTURES, PLAIN, SINGLE, SMALL, run_here

CONTEXT = click.Context(cli)
NAMES = tuple(cli.list_commands(CONTEXT))
STYLE = FIXTURES / "kohya/sd15-locon/sd15-locon.safetensors"
#: What the placeholders in examples stand for.
PLACEHOLDERS = {
    "model": SINGLE,
    "adapter": PLAIN,
    "other-adapter": FIXTURES / "adapters/rslora-patterns",
    "style.safetensors": STYLE,
    "detail.safetensors": STYLE,
}


def verb(name: str) -> Verb:
    found = cli.get_command(CONTEXT, name)
    assert isinstance(found, Verb)
    return found


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    return run_here(capsys, *name.split(), "--help").out


def words(text: str) -> list[str]:
    """The words of a help, without the marks that continue an example."""
    return text.replace(" \\\n", " ").split()


@pytest.mark.parametrize("name", ["", *NAMES])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(
    name: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = help_of(name, capsys)
    assert max(map(len, shown.splitlines())) < width
    monkeypatch.setenv("COLUMNS", "1000")
    assert words(shown) == words(help_of(name, capsys))


@pytest.mark.parametrize("width", range(50, 101, 5))
def test_an_option_and_its_number_are_on_one_line(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("merge", "combine"):
        assert re.findall(r"--?[a-z][\w-]*\n +\d\S*", help_of(name, capsys)) == []


@pytest.mark.parametrize("name", NAMES)
def test_verb_explains_its_arguments_and_has_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, shown = verb(name), help_of(name, capsys)
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    named = [re.sub(r"[\[\].]", "", p.make_metavar(CONTEXT)) for p in arguments]
    assert named == list(command.arguments)
    assert 2 <= len(command.examples) <= 3
    assert all(what.endswith(":") for what, _ in command.examples)
    assert shown.index("Arguments:") < shown.index("Examples:") if arguments else True


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_in_the_help_once_and_in_no_internal_words(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(name, capsys)
    for option in verb(name).get_params(CONTEXT):
        if isinstance(option, click.Option):
            line = rf"^  (-\w, )?{re.escape(option.opts[-1])}( |$)"
            assert len(re.findall(line, shown, re.MULTILINE)) == 1, option.opts
            assert option.help
            assert option.help.rpartition("  [")[0].endswith(".") or option.help.endswith(".")
    assert not re.search(r"INTEGER|FLOAT|TEXT RANGE|RANGE|x>=|\blam\b", shown)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_says_that_it_is_repeatable_or_takes_a_pattern(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = help_of(name, capsys)
    options = [param for param in verb(name).params if isinstance(param, click.Option)]
    assert shown.count("repeatable") == sum(option.multiple for option in options)
    patterns = sum("GLOB" in (option.metavar or "") for option in options)
    assert len(re.findall(r"see\s+Patterns", shown)) == patterns
    assert shown.count("\nPatterns:\n") == bool(patterns)


def test_program_lists_every_verb_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of("", capsys)
    assert "Others" not in shown  # the group of verbs that have none
    assert re.findall(r"^  ([a-z-]+)  +[A-Z]", shown, re.MULTILINE) == list(NAMES)


def test_methods_in_the_help_are_those_that_there_are() -> None:
    assert set(METHODS) == set(registry.names(methods))
    fields = {field: field for field in MethodOptions.__dataclass_fields__}
    page = (Path(__file__).parents[2] / "docs/reference/methods.md").read_text(encoding="utf-8")
    for name, (_, options) in METHODS.items():
        module = registry.load(methods, name)
        assert set(options) == set(module.OPTIONS) <= set(fields)
        assert (name in LOW_RANK) == module.LOW_RANK
        defaults = ", ".join(f"`{option}` {value}" for option, value in options.items())
        assert re.search(rf"^\| \[`{name}`\].*\| {defaults} \|", page, re.MULTILINE), defaults


# Examples


@pytest.fixture
def workplace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """A folder with all that the examples name; what they write to is new in it."""
    monkeypatch.chdir(tmp_path)
    for name, path in PLACEHOLDERS.items():
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, tmp_path / name)
    assert run_here(capsys, "merge", "model", SMALL, "-o", "tuned").code == 0
    return tmp_path


def examples() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The examples of each verb that need no Hub, in their order."""
    for name in NAMES:
        commands = tuple(command for _, command in verb(name).examples)
        if not any("ann/" in command for command in commands):
            yield name, commands


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(("name", "commands"), [*examples()])
def test_examples_run(
    name: str, commands: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "loratools"
        result = run_here(capsys, *arguments)
        assert result.code == 0, f"{command}: {result.err}"


def test_examples_that_need_the_hub_are_complete_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are read by the parser, though the names in them are made up."""
    for name in ("pull", "push"):
        for _, command in verb(name).examples:
            _, given, *arguments = shlex.split(command)
            assert given == name
            verb(name).make_context(name, arguments, resilient_parsing=False).close()


# Completion


@pytest.mark.parametrize(
    ("arguments", "start", "offered"),
    [
        ([], "m", ["merge"]),
        (["-q"], "sv", ["svd-extract"]),
        (["merge"], "--max", ["--max-shard-size"]),
        (["combine", "--method"], "dare", ["dare_linear", "dare_ties"]),
        (["resize"], "--qui", ["--quiet"]),
    ],
)
def test_a_shell_completes_verbs_options_and_values(
    arguments: list[str], start: str, offered: list[str]
) -> None:
    found = ShellComplete(cli, {}, "loratools", "_LORATOOLS_COMPLETE").get_completions(
        arguments, start
    )
    assert [item.value for item in found] == offered
