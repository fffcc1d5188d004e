"""A killed extraction goes on where it stopped, and ends with the bytes of one that was not."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.extracting.plan import ExtractOptions
from loratools.extracting.report import ExtractReport
from loratools.extracting.svd_extract import svd_extract
from loratools.extracting.writing import ExtractRun
from loratools.io.publish import partial_path
from loratools.lowrank.ranks import RankRule
from tests.e2e.commands import FIXTURES, digests

BASE = FIXTURES / "stories260k"
RULE = RankRule(parameters=9000, multiple_of=2)


class StopError(Exception):
    """A signal, say."""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "model"
    loratools.merge(BASE, FIXTURES / "adapters/plain", output=folder)
    return folder


def extract(tuned: Path, output: Path, rule: RankRule = RULE, **how: Any) -> ExtractReport:
    return svd_extract(
        tuned, BASE, output=output, rule=rule, base_name="base", run=ExtractRun(jobs=1, **how)
    )


def stopped_after(parts: int, folder: Path) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if len(list(folder.glob("parts/*.safetensors"))) >= parts:
            raise StopError

    return progress


@pytest.mark.parametrize("finished", [1, 20, 35])
def test_resumed_run_has_the_same_bytes(tuned: Path, tmp_path: Path, finished: int) -> None:
    extract(tuned, tmp_path / "whole")
    output = tmp_path / "out"
    progress = stopped_after(finished, partial_path(output))
    if finished < 35:
        with pytest.raises(StopError):
            extract(tuned, output, resume=True, progress=progress)
        assert len(list(partial_path(output).glob("parts/*.safetensors"))) == finished
        assert not output.exists()
    report = extract(tuned, output, resume=True)
    assert report.reused == (finished if finished < 35 else 0)
    assert digests(output) == digests(tmp_path / "whole")
    assert not partial_path(output).exists()


def test_parts_of_other_settings_are_not_used(tuned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(StopError):
        extract(tuned, output, resume=True, progress=stopped_after(5, partial_path(output)))
    report = extract(tuned, output, RankRule(energy=0.5), resume=True)
    assert report.reused == 0


def test_parts_of_other_inputs_are_not_used(tuned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(StopError):
        extract(tuned, output, resume=True, progress=stopped_after(5, partial_path(output)))
    os.utime(tuned / "model.safetensors", ns=(1, time.time_ns()))
    assert extract(tuned, output, resume=True).reused == 0


def test_parts_of_another_smallest_change_are_not_used(tuned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(StopError):
        extract(tuned, output, resume=True, progress=stopped_after(5, partial_path(output)))
    options = ExtractOptions(min_change=1e-3)
    report = svd_extract(
        tuned, BASE, output=output, rule=RULE, options=options, run=ExtractRun(resume=True)
    )
    assert report.reused == 0


def test_without_resume_nothing_is_left_or_used(tuned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(StopError):
        extract(tuned, output, progress=stopped_after(3, partial_path(output)))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StopError):
        extract(tuned, output, resume=True, progress=stopped_after(3, partial_path(output)))
    assert extract(tuned, output).reused == 0
    assert not partial_path(output).exists()


def flipped(at: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(at * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


DAMAGES = {
    "a bit of the header": flipped(0.001),
    "a bit of a name": lambda path: path.write_bytes(
        path.read_bytes().replace(b"rows", b"rowz", 1)
    ),
    "a bit of the factors": flipped(0.6),
    "a bit of the last number": flipped(1),
    "its end": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "everything": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_part_that_was_damaged_is_made_anew_and_told(
    tuned: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    output = tmp_path / "out"
    with pytest.raises(StopError):
        extract(tuned, output, resume=True, progress=stopped_after(4, partial_path(output)))
    parts = sorted(partial_path(output).glob("parts/*.safetensors"))
    damage(parts[1])
    report = extract(tuned, output, resume=True)
    assert (report.reused, report.damaged) == (3, 1)
    assert [note for note in report.notes if "1 part of the interrupted run" in note]
    extract(tuned, tmp_path / "whole")
    assert digests(output) == digests(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
@pytest.mark.parametrize("parts", [1, 12])
def test_killed_process_can_be_resumed(tuned: Path, tmp_path: Path, parts: int) -> None:
    extract(tuned, tmp_path / "whole")
    output = tmp_path / "out"
    command = [sys.executable, "-m", "loratools", "svd-extract", tuned, BASE, "-o", output]
    command += ["--parameters", "9000", "--multiple-of", "2", "--base-name", "base"]
    process = subprocess.Popen([*map(str, command), "--jobs", "1"], stdout=subprocess.DEVNULL)
    folder = partial_path(output) / "parts"
    while process.poll() is None and len(list(folder.glob("*.safetensors"))) < parts:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not output.exists():  # else it was faster than we are
        assert extract(tuned, output, resume=True).reused >= parts
    assert digests(output) == digests(tmp_path / "whole")
