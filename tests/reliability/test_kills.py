"""kill -9 at any moment: the output is absent, as it was, or complete, and the next run heals."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_loop.py"
pytestmark = pytest.mark.slow


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("direct", ["0", "1"])
def test_kills_tear_nothing(monkeypatch: pytest.MonkeyPatch, direct: str) -> None:
    monkeypatch.setenv("LORATOOLS_DIRECT", direct)
    found = run("--kills", "12", "--seed", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.match(r"12 runs, 0 torn, \d+ with a leftover.*, 0 p", found.stdout.splitlines()[-1])


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_failing_system_calls_tear_nothing() -> None:
    found = run("--strace", "--kinds", "1", "--calls", "1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.match(r"\d+ runs, 0 torn, .*, 0 promises broken", found.stdout.splitlines()[-1])
