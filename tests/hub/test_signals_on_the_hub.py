"""A signal ends a pull and a push soon, wherever they are: nothing is left, and nothing is sent."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from tests.e2e.commands import PLAIN, SINGLE, start
from tests.hub.faulty import BLOB, CONFIG, FILES, REPO, WEIGHTS, home, unfinished
from tests.hub.server import Hub, faults

#: More than connections hold on their way: so nobody can have sent it all to a Hub that waits.
LARGE = 16_000_000
COMMIT = f"/api/models/{REPO}/commit/"
SAID = {signal.SIGINT: "Interrupted.\n", signal.SIGTERM: "Terminated.\n"}


@pytest.fixture(autouse=True)
def repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create_repo(REPO, {CONFIG: FILES[CONFIG], WEIGHTS: os.urandom(LARGE)})
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")


def stopped(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send the signal, and look at how the process ends."""
    begun = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    took = time.monotonic() - begun
    assert (process.returncode, out, err) == (128 + number, "", SAID[number])
    assert took < 2


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it has not come this far"
        time.sleep(0.01)


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("by_xet", [False, True])
def test_a_signal_ends_a_pull_in_the_middle_of_a_file(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, by_xet: bool
) -> None:
    go_on = Event()
    if by_xet:
        hub.settings.xet = True
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
        hub.fail(faults.Before(lambda: go_on.wait(10)), "reconstructions", times=None)
    else:
        hub.fail(faults.Stall(LARGE // 2, 10), BLOB, method="GET")
    process = start("pull", REPO, "-o", tmp_path / "out")
    wait_until(lambda: hub.log.of(path="reconstructions") if by_xet else unfinished(home()))
    stopped(process, number)
    go_on.set()
    assert list(tmp_path.iterdir()) == []
    assert unfinished(home()) == []


def test_a_signal_ends_what_a_verb_fetches_without_telling_how_far_it_is(
    hub: Hub, tmp_path: Path
) -> None:
    hub.fail(faults.Stall(LARGE // 2, 10), BLOB, method="GET")
    process = start("merge", SINGLE, f"hf://{REPO}", "-o", tmp_path / "out")
    wait_until(lambda: unfinished(home()))
    stopped(process, signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []
    assert unfinished(home()) == []


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("by_xet", [False, True])
def test_a_signal_ends_a_push_in_the_middle_of_a_file(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, by_xet: bool
) -> None:
    go_on, head, path = Event(), hub.head(REPO), "/v1/xorbs/" if by_xet else BLOB
    if by_xet:
        hub.settings.xet = True
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
    hub.fail(faults.Held(0, go_on), path)
    adapter = shutil.copytree(PLAIN, tmp_path / "adapter")
    (adapter / "notes.dat").write_bytes(os.urandom(LARGE))
    process = start("push", adapter, REPO, "--all")
    wait_until(lambda: hub.log.of(path=path))
    stopped(process, number)
    go_on.set()
    assert not hub.log.of(path=COMMIT)
    assert hub.head(REPO) == head
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
