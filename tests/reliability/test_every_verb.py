"""Laws that hold for every verb, those of tomorrow included."""

import importlib
import json
import math
import os
import runpy
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import click
import pytest
import torch

import loratools
from loratools.cli import cli
from loratools.cli.signals import STOPPING
from loratools.cli.text import print_lines
from loratools.io import stopping
from tests.cli.results import refused
from tests.e2e.commands import FIXTURES, Result, digests, run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.hub.faulty import REPO
from tests.hub.server import Hub
from tests.merged import write_adapter, write_base
from tests.test_api import annotations, types_in
from tests.test_docs import assert_documented
from tests.verbs import VERBS, Verb

SAYS = {
    "SIGINT": "Interrupted.",
    "SIGTERM": "Terminated.",
    "SIGHUP": "Hung up.",
    "SIGQUIT": "Quit.",
    "SIGXCPU": "Out of CPU time.",
}


def test_every_verb_is_put_to_these_tests() -> None:
    assert sorted(VERBS) == sorted(cli.list_commands(click.Context(cli))), (
        "see VERBS in tests/verbs.py"
    )


def test_the_outputs_of_every_verb_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an adapter that is whole, by the commands in `scripts/output_hashes/cases.py`."""
    cases = runpy.run_path(str(Path(__file__).parents[2] / "scripts/output_hashes/cases.py"))
    for folder in ("adapters", "broken"):
        (tmp_path / "made" / folder).mkdir(parents=True)
    (tmp_path / "fixtures").symlink_to(FIXTURES)
    monkeypatch.chdir(tmp_path)
    commands = {case.command for case in cases["all_cases"]([("model", "base")], [], [])}
    hashed = {command.split()[0] for command in commands - {*cases["MISUSE"]}}
    assert hashed == set(VERBS), "scripts/output_hashes/cases.py needs commands of every verb"


@pytest.mark.parametrize("name", VERBS)
def test_the_json_of_every_verb_is_documented(
    name: str,
    workplace: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What one run prints; tests/test_docs.py sees to fields that are rarely there."""
    arguments = VERBS[name].arguments(hub, workplace / "work")
    result = run_here(capsys, name, *arguments, "--json")
    assert result.code == 0, result.err
    assert_documented([strict_json(result.out)], f"{name} --json", some=True)


@pytest.fixture
def workplace(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """An empty folder, in which alone a verb may leave something."""
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    for name in ("work", "scratch"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


class Calls:
    """Of the function that a verb calls. At one of them the process is sent a signal.

    It goes on when the signal was noticed; or never, where there is no output to clean up after:
    then the process would have ended.
    """

    def __init__(
        self, verb: Verb, patch: pytest.MonkeyPatch, number: signal.Signals | int = 0, turn: int = 0
    ) -> None:
        self.count = 0
        self.is_over = threading.Event()
        self._verb, self._number, self._turn = verb, number, turn
        module, _, name = verb.calls.rpartition(".")
        holder = importlib.import_module(module)
        self._real = getattr(holder, name)
        patch.setattr(holder, name, self._call)

    def _call(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.count == self._turn:
            os.kill(os.getpid(), self._number)
            while stopping._run.reason is None and not self.is_over.wait(0.001):
                pass
            if not self._verb.writes:
                self.is_over.wait()
                raise InterruptedError
        return self._real(*arguments, **options)


@pytest.mark.parametrize("name", VERBS)
def test_a_signal_stops_every_verb_and_leaves_nothing(
    name: str,
    workplace: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """When it has begun to store something, and just before the output would have its name."""
    verb, out = VERBS[name], workplace / "work/out"
    arguments = [name, *verb.arguments(hub, workplace / "work")]
    moments = [(number, 1) for number in STOPPING]
    if verb.writes:
        with pytest.MonkeyPatch.context() as patch:
            whole = Calls(verb, patch)
            assert run_here(capsys, *arguments).code == 0
        complete = digests(out)
        moments += [(signal.SIGINT, whole.count - 1), (signal.SIGHUP, whole.count - 1)]
    for number, turn in moments:
        before = _emptied(workplace)
        stopped = _stopped(capsys, arguments, verb, number, turn)
        assert (stopped.code, stopped.out) == (128 + number, "")
        assert stopped.err.splitlines()[-1] == SAYS[number.name]
        assert sorted(workplace.rglob("*")) == before
    if verb.writes:
        assert _stopped(capsys, arguments, verb, signal.SIGTERM, whole.count).code == 0
        assert digests(out) == complete


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.writes])
def test_a_signal_while_it_prints_is_too_late(
    name: str,
    workplace: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def print_late(lines: list[str]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while stopping._run.reason is None:
            time.sleep(0.001)
        print_lines(lines)

    monkeypatch.setattr("loratools.cli.text.print_lines", print_late)
    result = run_here(capsys, name, *VERBS[name].arguments(hub, workplace / "work"))
    assert (result.code, (workplace / "work/out").is_dir()) == (0, True)
    assert result.out


def _emptied(workplace: Path) -> list[Path]:
    """What there is besides an output."""
    shutil.rmtree(workplace / "work/out", ignore_errors=True)
    return sorted(workplace.rglob("*"))


def _stopped(
    capsys: pytest.CaptureFixture[str],
    arguments: list[object],
    verb: Verb,
    number: signal.Signals,
    turn: int,
) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(verb, patch, number, turn)
        result = run_here(capsys, *arguments)
        calls.is_over.set()
    return result


#: Factors of an adapter of rank 2 and scaling 2, by the sizes of `up` and `down`, and its config.
NUMBERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zero": {"up": 0.0},
    "huge": {"up": 1e300, "dtype": torch.float64},
    "huge together": {"up": 1e200, "down": 1e200, "dtype": torch.float64},
    "huge for float32": {"up": 1e30, "down": 1e30},
    "tiny": {"up": 1e-310, "dtype": torch.float64},
    "tiny together": {"up": 1e-200, "down": 1e-200, "dtype": torch.float64},
    "half": {"up": 1e4, "dtype": torch.float16},
    "a NaN": {"up": math.nan},
    "an infinity": {"up": math.inf},
    "alpha 1e308": {"lora_alpha": 1e308},
    "alpha 1e308 in 16 bits": {"lora_alpha": 1e308, "dtype": torch.bfloat16},
    "alpha of 300 digits": {"lora_alpha": 10**300, "use_rslora": True},
    "alpha 0": {"lora_alpha": 0},
    "alpha -0": {"lora_alpha": -0.0},
    "alpha 5e-324": {"lora_alpha": 5e-324},
    "alpha patterns": {"alpha_pattern": {"a": 1e308, "b": 1e-320}},
}
#: Those that are the same to all that computes.
NUMBERS_OF_CONFIGS: dict[str, dict[str, Any]] = {
    "rank 0": {"r": 0},
    "a rank of 30 digits": {"r": 10**30},
    "a fraction of a rank": {"r": 2.5},
    "an alpha in words": {"lora_alpha": "four"},
    "numbers of others": {"x": 12345678901234567890123, "y": 1.7976931348623157e308},
    "more than float64": {"x": 10**400},
}


def odd(
    folder: Path,
    up: float = 1.0,
    down: float = 1.0,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name in "ab":
        for part, shape, size in (("A", (2, 6), down), ("B", (8, 2), up)):
            numbers = torch.randn(shape, generator=generator, dtype=torch.float64) * size
            factors[f"m.{name}.lora_{part}.weight"] = numbers.to(dtype)
    modules = {"target_modules": ["a", "b"], "lora_alpha": 4}
    return write_adapter(folder, factors, **modules | config)


@pytest.mark.parametrize("name", VERBS)
def test_no_number_makes_a_fault_or_json_that_is_none(
    name: str,
    workplace: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is computed with or refused, in which case there is no output; and all JSON is JSON."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # most of the time
    base = write_base(workplace / "inputs/base", {f"m.{n}.weight": torch.ones(8, 6) for n in "ab"})
    for numbers, config in (NUMBERS_OF_CONFIGS | (NUMBERS if VERBS[name].computes else {})).items():
        adapter = odd(workplace / "inputs" / numbers.replace(" ", "-"), **config)
        ways = VERBS[name].of_adapter(hub, adapter, base)
        for arguments in ways[:1] if numbers in NUMBERS_OF_CONFIGS else ways:
            result = run_here(capsys, name, *arguments, "--json")
            assert result.code in {0, 1, 3}, (arguments, result.err)
            assert "Traceback" not in result.err
            if result.code == 1:
                assert os.listdir() == [], arguments  # noqa: PTH208
            else:
                strict_json(result.out)
            _check_files(Path.cwd())
            for path, data in (hub.files(REPO, "main") if REPO in hub.repos else {}).items():
                if path.endswith(".json"):
                    strict_json(data.decode())
            shutil.rmtree("out", ignore_errors=True)
            Path("lock.json").unlink(missing_ok=True)


def _check_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            strict_json(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            metadata = _header(path).get("__metadata__", {})
            assert all(type(value) is str for value in metadata.values())


def _header(path: Path) -> dict[str, dict[str, Any]]:
    data = path.read_bytes()
    return strict_json(data[8 : 8 + int.from_bytes(data[:8], "little")].decode())


def strict_json(text: str) -> dict[str, Any]:
    """As RFC 8259 has it: json.loads takes NaN, Infinity and keys that are there twice."""

    def constant(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    def fields(pairs: list[tuple[str, object]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    found: dict[str, Any] = json.loads(text, parse_constant=constant, object_pairs_hook=fields)
    return found


def report_class(name: str) -> type:
    """The class of a verb's report, whether it is returned or that of an adapter in memory."""
    returned = annotations(getattr(loratools, name.replace("-", "_")))["return"]
    (report,) = set(types_in(returned)) - {loratools.Adapter}
    return report


REPORTS = {name: report_class(name) for name, verb in VERBS.items() if verb.writes}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_that_cannot_be_made_into_text_leaves_no_output(
    name: str,
    workplace: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = VERBS[name].arguments(hub, workplace / "work")
    before = sorted(workplace.rglob("*"))
    monkeypatch.setattr(REPORTS[name], "shown", lambda report, **options: iter([1 / 0]))
    assert refused(run_here(capsys, name, *arguments), 70, "ZeroDivisionError")
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.parametrize("name", [name for name in REPORTS if VERBS[name].computes])
def test_what_cannot_be_reported_is_not_published(
    name: str,
    workplace: Path,
    hub: Hub,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An output that is there, and an error, would be two answers. A pull computes no numbers."""
    arguments = VERBS[name].arguments(hub, workplace / "work")
    before = sorted(workplace.rglob("*"))
    monkeypatch.setattr(REPORTS[name], "to_json", lambda report: {"number": math.nan})
    result = run_here(capsys, name, *arguments)
    assert refused(result, 1, "a NaN or an infinity, where JSON has no number")
    assert sorted(workplace.rglob("*")) == before
