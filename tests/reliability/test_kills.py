"""kill -9 at any moment: the output is absent, as it was, or complete, and the next run heals."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
pytestmark = pytest.mark.slow


def run(*arguments: str, script: str = "kill_loop.py") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("direct", ["0", "1"])
def test_kills_tear_nothing(monkeypatch: pytest.MonkeyPatch, direct: str) -> None:
    monkeypatch.setenv("LORATOOLS_DIRECT", direct)
    found = run("--kills", "12", "--seed", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.match(r"12 runs, 0 torn, \d+ with a leftover.*, 0 p", found.stdout.splitlines()[-1])


def test_kills_leave_the_old_or_the_new_of_a_swap() -> None:
    found = run("--kills", "8", "--megabytes", "16", "--seed", "1", script="swap_loop.py")
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.splitlines()[-1] == "8 swaps, 0 promises broken"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_failing_system_calls_tear_nothing() -> None:
    found = run("--strace", "--kinds", "1", "--calls", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.match(r"\d+ runs, 0 torn, .*, 0 promises broken", found.stdout.splitlines()[-1])
