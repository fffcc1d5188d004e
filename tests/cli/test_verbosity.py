"""`-q`, `-v` and `-V` mean the same before a verb and after it."""

import json
import re
import sys
from pathlib import Path

import pytest

from loratools.cli import cli
from loratools.version import __version__
from tests.e2e.commands import FIXTURES, PLAIN, SINGLE, run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.server import Hub
from tests.verbs import VERBS


def both_ways(flag: str, verb: str, arguments: list[object]) -> list[list[object]]:
    return [[flag, verb, *arguments], [verb, *arguments, flag]]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("before", [True, False])
def test_quiet_prints_nothing(
    verb: str,
    before: bool,
    hub: Hub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    arguments = VERBS[verb].arguments(hub, tmp_path)
    result = run_here(capsys, *both_ways("-q", verb, arguments)[0 if before else 1])
    assert (result.code, result.out, result.err) == (0, "", "")


def test_quiet_prints_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for command in both_ways("--quiet", "inspect", ["gone"]):
        result = run_here(capsys, *command)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("Error: gone")


def test_quiet_prints_what_json_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    for command in both_ways("-q", "inspect", [PLAIN, "--json"]):
        result = run_here(capsys, *command)
        assert json.loads(result.out)["parameters"] == 46240
        assert result.err == ""


def test_a_check_of_a_script_needs_no_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(capsys, "inspect", PLAIN, "--base", SINGLE, "--check", "-q").out == ""


OTHER = FIXTURES / "adapters/gpt2-conv1d"


@pytest.mark.parametrize("adapters", [[OTHER], [PLAIN, OTHER]])
def test_a_check_that_fails_says_why_on_stderr_though_it_is_quiet(
    adapters: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "inspect", *adapters, "--base", SINGLE, "--check", "-q")
    assert (result.code, result.out) == (3, "")
    assert re.fullmatch(r"Refused: \S*gpt2-conv1d: would not merge: .*\n", result.err)


def test_a_check_of_what_cannot_be_read_says_so_though_it_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 8)
    result = run_here(capsys, "inspect", PLAIN, tmp_path / "broken.safetensors", "--check", "-q")
    assert (result.code, result.out) == (3, "")
    assert re.fullmatch(r"Unreadable: \S*broken\.safetensors: .*\n", result.err)


def test_verbose_names_each_file_that_is_read_once_and_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = run_here(capsys, "inspect", PLAIN, "--check")
    for command in both_ways("-v", "inspect", [PLAIN, "--check"]):
        result = run_here(capsys, *command)
        assert result.out == usual.out
        lines = result.err.splitlines()
        assert re.fullmatch(r"time: \d+\.\d\d s", lines.pop())
        files = ["adapter_config.json", "adapter_model.safetensors"]
        assert sorted(line.split(" (")[0] for line in lines) == [
            f"read: {PLAIN / f}" for f in files
        ]


def test_what_verbose_says_stands_on_lines_of_its_own_beside_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    said = run_here(capsys, "inspect", PLAIN, OTHER, "--check", "-v").err
    assert " adapters [" in said  # the bar
    assert said.count("read: ") > 1
    assert re.findall(r"(?<![\r\n])read: ", said) == []


def test_quiet_and_verbose_together_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["-q", "inspect", "-v", PLAIN], ["inspect", "-q", "-v", PLAIN]):
        result = run_here(capsys, *command)
        assert result.code == 2
        assert "-q/--quiet and -v/--verbose" in result.err


@pytest.mark.parametrize("verb", cli.list_commands(None))  # type: ignore[arg-type]
def test_every_verb_says_its_version(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["-V"], ["--version"], [verb, "-V"], [verb, "--version"]):
        assert run_here(capsys, *command).out == f"loratools, version {__version__}\n"
