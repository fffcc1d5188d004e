"""A run that is stopped says so by its exit code, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import PLAIN, SHARDED, SMALL, digests, run_here

#: `loratools`, with copies that take their time, a piece of 64 kB after the other.
SLOW = """
import os, time

real = os.copy_file_range

def copy(source, target, size, *at):
    time.sleep(float(os.environ["SLOW"]))
    return real(source, target, min(size, 2**16), *at)

os.copy_file_range = copy
if os.environ.get("LYING_LOCKS"):
    import fcntl
    fcntl.flock = lambda fd, how: None

from loratools.cli import main

main()
"""


def start_slowly(
    *arguments: object, seconds: float = 0.1, **environment: Any
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SLOW, "merge", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SLOW": str(seconds)} | environment,
    )


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("numbers", "code", "says"),
    [
        ([signal.SIGINT], 130, "Interrupted."),
        ([signal.SIGTERM], 143, "Terminated."),
        ([signal.SIGHUP], 129, "Hung up."),
        ([signal.SIGTERM, signal.SIGTERM], 143, "Terminated."),  # from somebody impatient
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_signal_while_threads_copy_leaves_things_as_they_were(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    numbers: list[signal.Signals],
    code: int,
    says: str,
    overwrite: bool,
) -> None:
    output, partial = tmp_path / "merged", tmp_path / ".merged.loratools-partial"
    if overwrite:
        assert run_here(capsys, "merge", SHARDED, SMALL, "-o", output).code == 0
    before = digests(output)
    process = start_slowly(SHARDED, PLAIN, "-o", output, "--jobs", 2, *["--overwrite"] * overwrite)
    wait_for(partial / "model-00002-of-00002.safetensors", process)
    time.sleep(0.05)
    begin = time.monotonic()
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.strip() == says
    assert time.monotonic() - begin < 20
    assert os.listdir(tmp_path) == ["merged"] * overwrite  # noqa: PTH208
    assert digests(output) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_leaves_all_or_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    """From the first file on: the time before is Python's, which has its own way to end."""
    output, partial = tmp_path / "merged", tmp_path / ".merged.loratools-partial"
    for turn in range(8):
        process = start_slowly(SHARDED, SMALL, "-o", output, "--overwrite", seconds=0)
        wait_for(partial, process)
        time.sleep(0.25 * turn)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode in {0, 128 + number, -number}, err
        assert "Traceback" not in err
        assert os.listdir(tmp_path) in ([], ["merged"])  # noqa: PTH208
        if output.exists():
            assert len(digests(output)) == len(digests(SHARDED))


def test_two_runs_at_once_have_one_winner(tmp_path: Path) -> None:
    output = tmp_path / "merged"
    runs = [start_slowly(SHARDED, adapter, "-o", output) for adapter in (PLAIN, SMALL)]
    found = [run.communicate(timeout=120) for run in runs]
    codes = [run.returncode for run in runs]
    assert sorted(codes) == [0, 4], found
    loser = codes.index(4)
    assert "another run is writing this output" in found[loser][1]
    assert len(found[loser][1].splitlines()) == 1
    assert os.listdir(tmp_path) == ["merged"]  # noqa: PTH208
    winner = start_slowly(SHARDED, (PLAIN, SMALL)[1 - loser], "-o", tmp_path / "alone", seconds=0)
    winner.communicate()
    assert digests(output) == digests(tmp_path / "alone")


def test_two_runs_under_locks_that_lie_are_never_mixed(tmp_path: Path) -> None:
    """As on two machines that share a file system; the second begins when the first is at work."""
    output, partial = tmp_path / "merged", tmp_path / ".merged.loratools-partial"
    first = start_slowly(SHARDED, SMALL, "-o", output, LYING_LOCKS="1")
    wait_for(partial / "model-00002-of-00002.safetensors", first)
    second = start_slowly(SHARDED, PLAIN, "-o", output, LYING_LOCKS="1")
    found = [run.communicate(timeout=120) for run in (first, second)]
    codes = [first.returncode, second.returncode]
    assert codes in ([4, 0], [0, 1], [0, 4]), found
    assert os.listdir(tmp_path) == ["merged"]  # noqa: PTH208
    winner = start_slowly(
        SHARDED, PLAIN if codes[1] == 0 else SMALL, "-o", tmp_path / "alone", seconds=0
    )
    winner.communicate()
    assert digests(output) == digests(tmp_path / "alone")


def test_ctrl_c_while_modules_are_imported_prints_no_traceback() -> None:
    program = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "loratools.cli.signals":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
runpy.run_module("loratools", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (-signal.SIGINT, b"")
