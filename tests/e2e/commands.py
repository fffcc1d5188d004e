"""`loratools` run as people run it: in this process, where that is enough, or in its own."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loratools.cli import run
from loratools.cli.signals import STOPPING
from loratools.io.stopping import begin
from tests.wording import count_faults, internal_names

FIXTURES = Path(__file__).parents[2] / "fixtures"
SINGLE = FIXTURES / "stories260k"
SHARDED = FIXTURES / "stories260k-bf16-sharded"
PLAIN = FIXTURES / "adapters/plain"
SMALL = FIXTURES / "adapters/combine-r4"


@dataclass(frozen=True)
class Result:
    """What is left of a run."""

    code: int
    out: str
    err: str


def run_here(capsys: Any, *arguments: object) -> Result:
    """`loratools ARGUMENTS` in this process."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["loratools", *map(str, arguments)])
        try:
            code = run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            begin()  # else this process would go on as one that is to end
    out, err = capsys.readouterr()
    assert count_faults(out + err) == []
    if os.environ.get("LORATOOLS_DEBUG") != "1":  # which prints a traceback
        assert internal_names(err) == []
    return Result(code, out, err)


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """`loratools ARGUMENTS` as a process of its own, with pipes for its output."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | options.pop("env", {})
    command = [sys.executable, "-m", "loratools", *map(str, arguments)]
    return subprocess.Popen(command, **(pipes | {"env": environment} | options))


def run_apart(*arguments: object, **options: Any) -> Result:
    """`loratools ARGUMENTS` as a process of its own, waited for."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out or "", err or "")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by its name; of a file, under no name."""
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@contextmanager
def unchanged(*folders: Path) -> Iterator[None]:
    """Inputs are read-only: their bytes, modes and times are the same afterwards."""

    def state() -> list[object]:
        files = [file for folder in folders for file in sorted((folder, *folder.rglob("*")))]
        return [
            (file, s.st_mode, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_size)
            for file in files
            for s in [file.lstat()]
        ]

    before = state()
    yield
    assert state() == before
