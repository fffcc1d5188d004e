"""Measure a whole command: wall clock, CPU time, and the memory that the kernel cannot take back.

    python benchmarks/measure.py -- COMMAND ARGUMENT…

Anonymous memory (RssAnon + RssShmem, summed over the process tree, sampled every 10 ms from
`/proc`) is the fair figure for programs that map files: pages of a mapped file count as resident
but can be dropped at any time. Pages that a forked child still shares count twice. Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

PERIOD_S: Final = 0.01
PROC: Final = Path("/proc")


@final
@dataclass(frozen=True)
class Measurement:
    """The figures of one run of one command."""

    wall_s: float
    cpu_s: float
    """User and system time of the command and of every descendant it waited for."""
    peak_anonymous_bytes: int
    """The highest sample of the whole tree; a peak shorter than 10 ms can be missed."""
    max_rss_bytes: int
    """The largest single process, mapped files included; never below the measuring process."""
    stdout: str
    sync_s: float = 0.0
    """How long a sync took after it; 0 where that was not measured."""


class CommandError(Exception):
    """A measured command did not exit with 0."""


def tree(pid: int) -> Iterator[int]:
    """A process and its living descendants."""
    yield pid
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
        children = [
            child for thread in threads for child in (thread / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return  # it ended while we looked
    for child in children:
        yield from tree(int(child))


def anonymous_bytes(pid: int) -> int:
    """Memory of one process that is not backed by a file; 0 once it has ended."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kibibytes = (line.split()[1] for line in lines if line.startswith(("RssAnon:", "RssShmem:")))
    return 1024 * sum(map(int, kibibytes))


class _Sampler(threading.Thread):
    """A thread that samples memory, and keeps the highest sample, until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            self.peak = max(self.peak, sum(map(anonymous_bytes, tree(self.pid))))
            self.done.wait(PERIOD_S)


def measure(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Measurement:
    """Run a command to its end, and measure it.

    Raises:
        CommandError: the command did not exit with 0; the message holds the end of its stderr.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment,
            cwd=cwd,
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            # Not Popen.wait: only wait4 gives this child's own usage.
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            wall = time.perf_counter() - start
            sampler.done.set()
            sampler.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            end = errors.read().decode(errors="replace")[-2000:]
            raise CommandError(f"{list(command)}: exit status {process.returncode}\n{end}")
        return Measurement(
            wall_s=wall,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_anonymous_bytes=sampler.peak,
            max_rss_bytes=usage.ru_maxrss * 1024,
            stdout=output.read().decode(errors="replace"),
        )


def main() -> None:
    command = sys.argv[2:] if sys.argv[1:2] == ["--"] else sys.argv[1:]
    if not command:
        raise SystemExit("usage: measure.py -- COMMAND ARGUMENT…")
    try:
        print(json.dumps(asdict(measure(command)), indent=2))
    except CommandError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
