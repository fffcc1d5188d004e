"""What is answered to options by another program's name, and to options before the command."""

import re
from pathlib import Path

import click
import pytest

from loratools.cli import cli
from loratools.cli.unknown import no_such_option
from loratools.other_words import ARGUMENTS
from tests.cli.results import refused, refused_as_json
from tests.e2e.commands import PLAIN, SINGLE, run_here
from tests.narrowing import present

CONTEXT = click.Context(cli, info_name="loratools")
VERBS = {name: cli.get_command(CONTEXT, name) for name in cli.list_commands(CONTEXT)}


def options_of(verb: str) -> set[str]:
    command = VERBS[verb]
    assert command is not None
    return {option for param in command.params for option in param.opts if option[0] == "-"}


def answer(verb: str, option: str) -> str:
    """The message for an option that a verb does not have."""
    context = click.Context(present(VERBS[verb]), parent=CONTEXT, info_name=verb)
    return no_such_option(click.NoSuchOption(option), context).format_message()


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_by_another_name_is_answered_by_what_the_verb_has(verb: str) -> None:
    command = present(VERBS[verb])
    named = {str(param.name).replace("_", "-"): param for param in command.params}
    options = {opt: name for name, param in named.items() for opt in param.opts if opt[0] == "-"}
    arguments = named.keys() - options.values()
    for word in {word for name in named.keys() & ARGUMENTS.keys() for word in ARGUMENTS[name]}:
        if f"--{word}" in options:
            continue
        found = re.fullmatch(
            rf"No such option '--{word}'; (did you mean '(.*)'\?|it is an argument: loratools .*)",
            answer(verb, f"--{word}"),
        )
        names = [options[found[2]]] if found and found[2] else arguments
        assert found
        assert any(word == name or word in ARGUMENTS.get(name, ()) for name in names)


def test_block_weights_are_answered_by_rescale_where_a_verb_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for word in ("--block-weights", "--lbw"):
        result = run_here(capsys, "combine", PLAIN, word, "OUTD")
        assert refused(result, 2, f"No such option '{word}'; `loratools rescale --block-weights`")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["swap", "x", "--in", PLAIN, "-w", "0.7", "0.3"], "one list without spaces: -w 0.7,0.3"),
        (["rescale", PLAIN, "0.7"], r"did you mean --strength 0\.7\?$"),
        (["resize", PLAIN, "4"], r"did you mean --rank 4\?$"),
        (["resize", PLAIN, "4", "8"], "see loratools resize --help"),
        (["resize", PLAIN, SINGLE], "see loratools resize --help"),
    ],
)
def test_a_number_that_stands_alone_is_answered_by_its_option(
    command: list[object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, *command)
    assert refused(result, 2, "Got unexpected extra argument")
    assert re.search(says, result.err.strip())


def test_a_file_that_begins_with_a_dash_is_answered_by_how_to_name_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-dash.safetensors").touch()
    result = run_here(capsys, "inspect", PLAIN, "-dash.safetensors")
    assert refused(result, 2, r"'-dash.safetensors' is read as options; write ./-dash.safetensors$")


# formats has no option of its own but --json, which the next test has.
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "formats"])
def test_an_option_before_the_command_is_said_to_belong_after_it(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    option = min(options_of(verb) - options_of_the_program())
    says = rf"'{option}' before a command; write it after, as in loratools {verb} {option}$"
    assert refused(run_here(capsys, option, verb), 2, says)


def test_json_before_the_command_is_answered_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_here(capsys, "--json", "merge", SINGLE, PLAIN, "--dry-run")
    assert refused_as_json(result, 2, hint="write it after, as in loratools merge --json")


def options_of_the_program() -> set[str]:
    return {option for param in cli.params for option in param.opts}


def test_an_option_that_no_command_has_is_answered_by_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(run_here(capsys, "--frobnicate", "merge"), 2, "See loratools --help")


def test_values_to_choose_from_are_on_the_line_of_the_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    says = r"'--to'\. Choose from comfyui, diffusers, .*, peft\. See"
    assert refused(run_here(capsys, "convert", PLAIN, "-o", "out"), 2, says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("formats --recursive", "it is an option of loratools inspect"),
        ("inspect a --frobnicate", "See loratools inspect --help"),
        ("merge a b --copy-tokenizer", "See loratools merge --help"),
        ("merge a b --lazy-unpickle", "See loratools merge --help"),
        ("inspect a --no-color", "See loratools inspect --help"),
        ("inspect a --CHECK", "did you mean '--check'"),
        ("merge a b --max_shard_size 1GB", "did you mean '--max-shard-size'"),
        ("merge a b --save_precision fp16", "did you mean '--dtype'"),
        ("merge a b --out c", "did you mean '--output'"),
        ("merge a b --dry", "did you mean '--dry-run'"),
        ("merge --base a b", "it is an argument: loratools merge BASE"),
        ("svd-extract --model a b", "it is an argument: loratools svd-extract TUNED BASE"),
        ("push a --repo b/c", "it is an argument: loratools push FOLDER OWNER/NAME"),
        ("pull a/b --token x", "set HF_TOKEN, or log in"),
    ],
)
def test_an_option_that_a_verb_does_not_have_is_answered_by_what_was_meant_or_by_the_help(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never by one with which it has but letters in common, as with --version."""
    assert refused(run_here(capsys, *words.split()), 2, says)


def test_an_option_of_another_verb_is_said_to_be_one() -> None:
    named = 0
    for verb in VERBS:
        for option in {opt for other in VERBS for opt in options_of(other)} - options_of(verb):
            found = re.findall(
                r"loratools ([\w-]+)", answer(verb, option).partition("option of ")[2]
            )
            named += len(found)
            assert all(option in options_of(other) for other in found)
    assert named > len(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_no_equals_sign_stands_after_an_option_of_one_letter(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser would make an output called `=out` of `-o=out`."""
    for option in options_of(verb):
        if len(option) == 2:
            result = run_here(capsys, verb, f"{option}=out")
            assert refused(result, 2, f"'{option}=out': no = .*; write {option}( out)?$")


@pytest.mark.parametrize("verb", ["rescale", "resize", "convert", "svd-extract", "pull", "push"])
def test_an_argument_too_many_is_answered_by_those_that_there_are(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["--to", "mlx"] if verb == "convert" else []
    result = run_here(capsys, verb, "a", "b", "c", *to)
    assert refused(
        result, 2, rf"loratools {verb} takes [A-Z/ and]+, and all else by options.*: see"
    )
