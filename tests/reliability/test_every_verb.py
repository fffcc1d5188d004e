"""Laws that hold for every verb, those of tomorrow included."""

import importlib
import os
import shutil
import threading

import pytest

from loratools.cli import _COMMANDS
from loratools.cli.signals import STOPPING
from loratools.io import stopping
from tests.e2e.commands import digests, run_here
from tests.hub.conftest import hub, server  # noqa: F401 - fixtures
from tests.verbs import VERBS

SAYS = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGHUP": "Hung up."}


def test_every_verb_is_put_to_these_tests():
    assert list(VERBS) == list(_COMMANDS)


@pytest.fixture
def workplace(hub, tmp_path, monkeypatch):  # noqa: F811
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

    def __init__(self, verb, patch, number=0, turn=0):
        self.count = 0
        self.is_over = threading.Event()
        self._verb, self._number, self._turn = verb, number, turn
        module, _, name = verb.calls.rpartition(".")
        holder = importlib.import_module(module)
        self._real = getattr(holder, name)
        patch.setattr(holder, name, self._call)

    def _call(self, *arguments, **options):
        self.count += 1
        if self.count == self._turn:
            os.kill(os.getpid(), self._number)
            while stopping._run.reason is None and not self.is_over.wait(0.001):
                pass
            if not self._verb.writes:
                self.is_over.wait()
                raise InterruptedError
        return self._real(*arguments, **options)


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
@pytest.mark.parametrize("name", VERBS)
def test_a_signal_stops_every_verb_and_leaves_nothing(name, number, workplace, hub, capsys):  # noqa: F811
    """When it has begun to store something, and just before the output would have its name."""
    verb, out = VERBS[name], workplace / "work/out"
    arguments = [name, *verb.arguments(hub, workplace / "work")]
    turns = [1]
    if verb.writes:
        with pytest.MonkeyPatch.context() as patch:
            whole = Calls(verb, patch)
            assert run_here(capsys, *arguments).code == 0
        complete = digests(out)
        turns = [1, whole.count - 1]
    for turn in turns:
        before = _emptied(workplace)
        stopped = _stopped(capsys, arguments, verb, number, turn)
        assert (stopped.code, stopped.out) == (128 + number, "")
        assert stopped.err.splitlines()[-1] == SAYS[number.name]
        assert sorted(workplace.rglob("*")) == before
    if verb.writes:
        assert _stopped(capsys, arguments, verb, number, whole.count).code == 0
        assert digests(out) == complete


def _emptied(workplace):
    """What there is besides an output."""
    shutil.rmtree(workplace / "work/out", ignore_errors=True)
    return sorted(workplace.rglob("*"))


def _stopped(capsys, arguments, verb, number, turn):
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(verb, patch, number, turn)
        result = run_here(capsys, *arguments)
        calls.is_over.set()
    return result
