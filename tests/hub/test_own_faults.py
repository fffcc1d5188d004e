"""A fault of loratools is one, and no answer of a Hub: exit 70, wherever it is."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from loratools.hub import answers, client, expected, reading, session
from tests.e2e.commands import run_here
from tests.hub.client import write
from tests.hub.faulty import FILES, REPO, WEIGHTS, line_of
from tests.hub.server import Hub

FAULTS = [TypeError, ValueError, KeyError, AttributeError, RecursionError]
PLACES = {
    "the reader of listings": (answers, "_file"),
    "the reader of commits": (reading, "commit_in"),
    "the question": (reading, "_address"),
    "the check of headers": (session, "check_headers"),
    "the limit of answers": (session, "expected_file"),
    "what is expected": (expected, "Expected"),
    "the headers of a request": (client, "headers"),
    "the client's making": (session, "install"),
    "the guard of requests": (session, "_is_at_endpoint"),
}


def breaks(kind: type[Exception]) -> Callable[..., NoReturn]:
    def broken(*_: object, **__: object) -> NoReturn:
        raise kind("of our own")

    return broken


@pytest.fixture
def ready(hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub.create_repo(REPO, FILES)
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    return hub


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_a_fault_of_ours_in_a_pull_is_no_answer_of_a_hub(
    place: tuple[ModuleType, str],
    ready: Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(*place, breaks(TypeError))
    result = run_here(capsys, "pull", REPO)
    assert result.code == 70
    assert "a fault in loratools: TypeError" in line_of(result)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_ours_in_a_push_is_no_answer_of_a_hub(
    kind: type[Exception],
    ready: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = write(tmp_path / "adapter", FILES | {WEIGHTS: FILES[WEIGHTS][:-1] + b"\x01"})
    monkeypatch.setattr(session, "expected_file", breaks(kind))  # called by the client's lines
    result = run_here(capsys, "push", adapter, REPO, "--no-card")
    assert result.code == 70
    assert f"a fault in loratools: {kind.__name__}" in line_of(result)


@pytest.mark.parametrize("kind", FAULTS)
def test_what_the_client_chokes_on_is_an_answer(
    kind: type[Exception],
    ready: Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It raises whatever comes of a field that is not what it takes it for."""
    choke = compile("def choke(*_, **__): raise kind('of an answer')", "client.py", "exec")
    names = {"kind": kind, "__name__": "huggingface_hub.hf_api"}
    exec(choke, names)
    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", names["choke"])
    result = run_here(capsys, "pull", REPO)
    assert result.code == 4
    assert f"not the answer of a Hub ({kind.__name__}: " in line_of(result)
