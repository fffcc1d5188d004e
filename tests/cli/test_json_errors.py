"""With --json, whatever goes wrong is one JSON object on stderr."""

import errno
import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import click
import pytest

from loratools.cli import cli
from loratools.cli.failures import Stopped, exit_code, failure
from loratools.errors import FormatError
from loratools.files import opening
from tests.cli.results import refused, refused_as_json
from tests.e2e.commands import FIXTURES, PLAIN, SINGLE, SMALL, run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.server import Hub
from tests.verbs import VERBS


@pytest.mark.parametrize("verb", [*VERBS, "bogus"])
@pytest.mark.parametrize("words", [["--bogus", "--json"], ["--json", "--bogus"]])
def test_an_error_in_the_command_line_is_an_object_wherever_json_is_asked_for(
    verb: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, verb, *words)
    assert refused_as_json(result, 2, kind="UsageError", file=None, tensor=None)


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_path_such_as_a_variable_that_is_not_set_gives_is_refused(
    verb: str,
    tmp_path: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [verb, *VERBS[verb].arguments(hub, tmp_path), "--json"]
    paths = [at for at, word in enumerate(command) if isinstance(word, Path)]
    lines: list[list[object]] = [[*command[:at], "", *command[at + 1 :]] for at in paths]
    lines.append(["", "--json"])
    for words in lines:
        result = run_here(capsys, *words)
        assert refused_as_json(result, 2, kind="UsageError")
        assert "an empty text" in json.loads(result.err)["message"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("empty", ["", " "], ids=["nothing", "a space"])
def test_an_empty_text_is_refused_by_every_option_that_takes_a_text(
    verb: str,
    empty: str,
    tmp_path: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    texts = (type(click.STRING), click.Path)
    options = [
        param.opts[-1]
        for param in command.params
        if isinstance(param, click.Option) and isinstance(param.type, texts)
    ]
    given = VERBS[verb].arguments(hub, tmp_path)
    for option in options:
        result = run_here(capsys, verb, *given, option, empty)
        assert refused(result, 2, rf"'{option}': an empty text.*; set the variable"), option
        assert not (tmp_path / "out").exists()


def test_an_error_before_the_verb_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--bogus", "--json"], ["--json"]):
        assert refused_as_json(run_here(capsys, *words), 2, kind="UsageError")


def test_the_hint_of_a_usage_error_is_what_click_suggests_or_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_here(capsys, "combine", SMALL, "--wieght", "1", "--json")
    assert refused_as_json(result, 2, hint="did you mean '--weight'?")
    result = run_here(capsys, "merge", "--json")
    assert refused_as_json(result, 2, hint="See loratools merge --help.")
    result = run_here(capsys, "swap", SINGLE, "--in", SMALL, "--out", "--json")
    assert refused_as_json(result, 2, hint="use it without --out.")


@pytest.mark.parametrize("verb", VERBS)
def test_a_typo_in_the_path_of_any_input_names_it_as_the_file(
    verb: str,
    tmp_path: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [verb, *VERBS[verb].arguments(hub, tmp_path), "--json"]
    inputs = [at for at, word in enumerate(command) if isinstance(word, Path) and word.exists()]
    for at in inputs:
        for path in ("gone", "./gone/", "gone/gone", "g: o"):
            result = run_here(capsys, *command[:at], path, *command[at + 1 :])
            assert refused_as_json(result, 1), path
            assert os.path.normpath(json.loads(result.err)["file"]) == os.path.normpath(path)


def test_an_option_with_a_value_that_it_cannot_have_is_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_here(capsys, "resize", SMALL, "--rank", 0, "--dry-run", "--json")
    assert refused_as_json(result, 2, kind="OptionError", file=None, hint="use 1 or more")


def test_an_output_that_exists_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a: b"
    output.mkdir()
    result = run_here(capsys, "rescale", SMALL, "--strength", 2, "-o", output, "--json")
    hint = "use --overwrite to replace it"
    assert refused_as_json(result, 1, kind="OutputError", file=str(output), hint=hint)


@pytest.mark.parametrize("output", ["gone/out", "gone/deep/out", "../gone/out"])
def test_the_folder_of_an_output_is_the_file_of_the_error_about_it(
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_here(capsys, "rescale", SMALL, "--strength", 2, "-o", output, "--json")
    folder = output.removesuffix("/out")
    assert refused_as_json(result, 1, kind="OutputError", file=folder, hint="make it first")


def test_a_tensor_is_named_in_full_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{'layer.' * 40}weight"
    header = {name: {"dtype": "X8", "shape": [1], "data_offsets": [0, 1]}}
    data = json.dumps(header).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(data).to_bytes(8, "little") + data + b"0")
    result = run_here(capsys, "inspect", file, "--json")
    assert refused_as_json(result, 1, kind="FormatError", file=str(file), tensor=name, hint=None)


def test_a_file_in_the_folder_that_was_named_is_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    (tmp_path / "adapter_model.safetensors").write_bytes(
        (SMALL / "adapter_model.safetensors").read_bytes()
    )
    result = run_here(capsys, "inspect", tmp_path, "--json")
    assert refused_as_json(result, 1, file=str(tmp_path / "adapter_config.json"))


def test_a_name_that_is_not_unicode_is_written_with_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "\udc80\n")
    assert refused_as_json(run_here(capsys, "inspect", path, "--json"), 1, file=path)


def test_a_check_that_fails_prints_its_report_and_no_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = FIXTURES / "tiny-gpt2"
    result = run_here(capsys, "inspect", PLAIN, "--check", "--base", other, "--json")
    assert (result.code, result.err) == (3, "")
    assert json.loads(result.out)["sound"] is False


@pytest.mark.parametrize(
    ("raised", "code", "fields"),
    [
        (OSError(errno.ENOSPC, "no space", "out"), 4, {"kind": "StorageError", "file": "out"}),
        (MemoryError(), 4, {"kind": "limit", "message": "out of memory"}),
        (RuntimeError("can't start new thread"), 4, {"kind": "limit"}),
        (ZeroDivisionError("by 0"), 70, {"kind": "fault"}),
        (KeyboardInterrupt(), 130, {"kind": "signal", "message": "Interrupted."}),
        (Stopped(signal.SIGTERM), 143, {"kind": "signal", "message": "Terminated."}),
        (FormatError("x: y", file="x", tensor="t"), 1, {"file": "x", "tensor": "t"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_stops_a_command_is_an_object(
    raised: BaseException,
    code: int,
    fields: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr("loratools.describing.formats.all_formats", fail)
    assert refused_as_json(run_here(capsys, "formats", "--json"), code, **fields)
    monkeypatch.setenv("LORATOOLS_DEBUG", "1")
    error = json.loads(run_here(capsys, "formats", "--json").err)
    assert "in fail" in error["traceback"]


def test_nothing_is_said_where_nobody_reads_or_nothing_failed() -> None:
    for error, code in (
        (BrokenPipeError(), 141),
        (SystemExit(1), 141),
        (click.exceptions.Exit(3), 3),
    ):
        assert failure(error) is None
        assert exit_code(error) == code


def test_json_after_two_dashes_is_the_name_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_here(capsys, "inspect", "--", "--json")
    assert result.err.startswith("Error: --json: no such file")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_warning_of_a_library_is_printed_for_programmers_alone(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_adapter = opening.open_adapter

    def warn(*arguments: Any, **keywords: Any) -> Any:
        warnings.simplefilter("always")  # as libraries do
        warnings.warn("this will change", FutureWarning, stacklevel=1)
        return open_adapter(*arguments, **keywords)

    monkeypatch.setattr(opening, "open_adapter", warn)
    command = ["resize", SMALL, "--rank", "1", "--dry-run", *words]
    with warnings.catch_warnings(record=True) as shown:
        assert run_here(capsys, *command).err == ""
        assert shown == []
        monkeypatch.setenv("LORATOOLS_DEBUG", "1")
        assert run_here(capsys, *command).err == ""
        assert len(shown) == (0 if words else 1)
