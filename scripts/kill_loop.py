#!/usr/bin/env python
"""Kill merges at random moments, or fail their system calls one by one, and check what is left.

    python scripts/kill_loop.py --kills 500 [--seed 0]
    python scripts/kill_loop.py --strace [--calls 12]

A run merges a small sharded bf16 base: to a new folder, over an old one (`--overwrite`), or from
and to a single file; with one thread or two. After every kill the output must be absent, as it
was, or complete; inputs must be untouched; and at most the one known folder may be left, which the
next run removes. With `--strace`, runs are killed at the Nth of each system call that stores
something, or that call fails (ENOSPC, EIO), for N = 1, 2, ... until there is no Nth call. After a
failed call the exit code must be 4, nothing may be left, and an old output must be as it was.

Prints a table; exits 1 if any promise was broken. Linux only; `--strace` needs strace.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

PROGRAM: Final = (sys.executable, "-m", "loratools")
FIXTURES: Final = Path(__file__).resolve().parent.parent / "fixtures"
BASE: Final = FIXTURES / "stories260k-bf16-sharded"
FILE: Final = FIXTURES / "stories260k" / "model.safetensors"
ADAPTER: Final = FIXTURES / "adapters" / "plain"
OLD_ADAPTER: Final = FIXTURES / "adapters" / "combine-r4"
#: The system calls by which a run stores; those that this kernel lacks are left out.
CALLS: Final = (
    *("mkdir", "ftruncate", "write", "pwrite64", "copy_file_range", "fsync"),
    *("rename", "renameat2", "link"),
)
FAULTS: Final = ("error=ENOSPC", "error=EIO", "signal=KILL")
Digest = str | None


@final
@dataclass(frozen=True)
class Job:
    """One kind of run: what it merges, and whether over an old output."""

    name: str
    base: Path
    overwrite: bool
    jobs: int

    def arguments(self, output: Path, adapter: Path = ADAPTER) -> list[str]:
        """The command line of this run, after `loratools`."""
        flags = ["--overwrite"] if self.overwrite else []
        output_flags = ["-o", str(output), "--jobs", str(self.jobs), *flags]
        return ["merge", str(self.base), str(adapter), *output_flags]


JOBS: Final = (
    Job("sharded, 2 threads", BASE, overwrite=False, jobs=2),
    Job("sharded, 1 thread", BASE, overwrite=False, jobs=1),
    Job("sharded, --overwrite, 2 threads", BASE, overwrite=True, jobs=2),
    Job("sharded, --overwrite, 1 thread", BASE, overwrite=True, jobs=1),
    Job("single file", FILE, overwrite=False, jobs=2),
    Job("single file, --overwrite", FILE, overwrite=True, jobs=2),
)
#: strace counts calls per thread: in a run with one thread, N is the Nth call of the whole run.
STRACED: Final = (JOBS[3], JOBS[1], JOBS[5], JOBS[4])
LEFTOVER: Final = "leftover folder"


@final
@dataclass
class Bench:
    """A folder to write in, the digests that each job's output may have, and broken promises.

    `delays` are the seconds until a job begins to write, and from then to its end.
    """

    folder: Path
    inputs: Digest
    complete: dict[Job, Digest] = field(default_factory=dict)
    old: dict[Job, Digest] = field(default_factory=dict)
    delays: dict[Job, tuple[float, float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def output(self, job: Job) -> Path:
        """Where a run writes: a single file has the suffix of one."""
        return self.folder / ("output.safetensors" if job.base.is_file() else "output")

    def partial(self, job: Job) -> Path:
        """The staging folder, the only thing that may be left beside the output."""
        return self.folder / f".{self.output(job).name}.loratools-partial"

    def prepare(self, job: Job) -> None:
        """Reset the folder to what a run of `job` should find: no output, or the old one."""
        for path in self.folder.iterdir():
            _remove(path)
        old = self.folder.with_name(f"{self.folder.name}-old") / job.base.name
        if job.overwrite:
            copy = shutil.copytree if old.is_dir() else shutil.copyfile
            copy(old, self.output(job))

    def measure(self, job: Job) -> None:
        """Run a job undisturbed: note its old and complete output, and how long it takes.

        The two delays are until it begins to write, and from there to its end. Called once for
        every job, before it is used.
        """
        old = self.folder.with_name(f"{self.folder.name}-old") / job.base.name
        old.parent.mkdir(exist_ok=True)
        if not old.exists():
            made = _start(Job("", job.base, overwrite=False, jobs=1).arguments(old, OLD_ADAPTER))
            made.join()
        self.prepare(job)
        begin = time.monotonic()
        process = _start(job.arguments(self.output(job)))
        _wait_for(self.partial(job), process)
        appeared = time.monotonic()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{job.name}: exit code {process.exitcode}")
        self.delays[job] = appeared - begin, time.monotonic() - appeared
        self.complete[job] = digest(self.output(job))
        self.old[job] = digest(old) if job.overwrite else None
        if self.complete[job] == self.old[job]:
            raise SystemExit(f"{job.name}: the old output is no other than the new one")

    def state(self, job: Job) -> str:
        """Whether the output is complete, old, absent, or torn."""
        found = digest(self.output(job))
        if found == self.complete[job]:
            return "complete"
        if found == self.old[job]:
            return "old" if job.overwrite else "absent"
        return "TORN"

    def litter(self, job: Job) -> list[str]:
        """The names of everything beside the output."""
        return sorted(path.name for path in self.folder.iterdir() if path != self.output(job))

    def check(self, *, holds: bool, promise: str) -> None:
        """Note `promise` as broken unless it `holds`."""
        if not holds:
            self.broken.append(promise)
            print(f"BROKEN: {promise}", flush=True)

    def check_state(self, job: Job, where: str) -> str:
        """The state of the output after a fault: it may not be torn, nor any input changed."""
        state, litter = self.state(job), self.litter(job)
        self.check(holds=state != "TORN", promise=f"{job.name}: {where}: torn")
        known = litter in ([], [self.partial(job).name])
        self.check(holds=known, promise=f"{job.name}: {where}: left {litter}")
        self.check(holds=digest(FIXTURES) == self.inputs, promise=f"{where}: an input has changed")
        return state

    def check_healing(self, job: Job) -> None:
        """Check that the next run completes the output and removes what was left."""
        if self.output(job).exists() and not job.overwrite:
            _remove(self.output(job))
        process = _start(job.arguments(self.output(job)))
        process.join()
        code = process.exitcode
        healed = code == 0 and self.state(job) == "complete" and not self.litter(job)
        self.check(holds=healed, promise=f"{job.name}: the next run did not heal it (exit {code})")


def kill_loop(bench: Bench, kills: int, seed: int) -> Counter[tuple[str, str]]:
    """Kill runs at moments spread over their duration; count what is left."""
    rng = random.Random(seed)
    states: Counter[tuple[str, str]] = Counter()
    for number in range(kills):
        job = JOBS[number % len(JOBS)]
        if job not in bench.delays:
            bench.measure(job)
        bench.prepare(job)
        killed = _kill_somewhere(bench, job, rng)
        state = bench.check_state(job, f"kill {number}")
        states[job.name, state if killed else f"{state}, ran to its end"] += 1
        states[job.name, LEFTOVER] += bool(bench.litter(job))
        if bench.litter(job) or number % 10 == 0:
            bench.check_healing(job)
    return states


def _kill_somewhere(bench: Bench, job: Job, rng: random.Random) -> bool:
    """Start a run and kill it at a random moment; return False if it had ended before.

    Most kills come after the staging folder has appeared: before that nothing can be left.
    """
    before, after = bench.delays[job]
    process = _start(job.arguments(bench.output(job)))
    if rng.random() < 0.2:
        delay = rng.uniform(0, before)
    else:
        _wait_for(bench.partial(job), process)
        delay = rng.uniform(0, after)
    process.join(timeout=delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def fail_calls(bench: Bench, most: int, jobs: Sequence[Job]) -> Counter[tuple[str, str]]:
    """Let the Nth of each storing call fail, N = 1, 2, ... until a run succeeds."""
    states: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        bench.measure(job)
        for call, fault in product(_known_calls(), FAULTS):
            for number in range(1, most + 1):
                code, state = _run_failing(bench, job, f"{call}:{fault}:when={number}")
                states[f"{job.name}: {call} {fault}", f"exit {code}, {state}"] += 1
                if code == 0:
                    break
    return states


def _run_failing(bench: Bench, job: Job, injection: str) -> tuple[int, str]:
    bench.prepare(job)
    before = bench.state(job)
    call, where = injection.split(":", maxsplit=1)[0], f"{job.name}: {injection}"
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    if "error" in injection:
        trace.append("--seccomp-bpf")  # faster, but it does not inject signals
    # Only calls on these paths count: the promise says nothing of writes to a pipe or to stderr.
    paths = [part for path in _paths(bench, job) for part in ("-P", str(path))]
    found = subprocess.run(
        [*trace, *paths, "-e", f"inject={injection}", *PROGRAM, *job.arguments(bench.output(job))],
        capture_output=True,
        text=True,
        check=False,
    )
    code = found.returncode
    state = bench.check_state(job, where)
    if "KILL" in injection and code:
        bench.check_healing(job)
        return code, state
    bench.check(holds=not bench.litter(job), promise=f"{where}: left {bench.litter(job)}")
    bench.check(holds="Traceback" not in found.stderr, promise=f"{where}: a traceback")
    as_it_should = state == {0: "complete", 4: before}.get(code)
    bench.check(
        holds=as_it_should, promise=f"{where}: exit {code}, {state}: {found.stderr.strip()}"
    )
    return code, state


def _paths(bench: Bench, job: Job) -> Iterator[Path]:
    """The files and folders whose calls are counted: those that a run makes or renames."""
    yield from (bench.output(job), bench.partial(job), bench.folder)
    names = (
        [path.name for path in job.base.iterdir()]
        if job.base.is_dir()
        else [bench.output(job).name]
    )
    yield from (bench.partial(job) / name for name in names)


def _known_calls() -> Iterator[str]:
    for call in CALLS:
        command = ["strace", "-o", "/dev/null", "-e", f"trace={call}", "true"]
        if not subprocess.run(command, capture_output=True, check=False).returncode:
            yield call


def digest(path: Path) -> Digest:
    """One SHA-256 over the names and bytes of all files; None if the path does not exist."""
    if not path.exists():
        return None
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        total.update(f"{file.relative_to(path)}\0".encode())
        if file.is_file():
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _start(arguments: list[str]) -> "ForkProcess":
    """A process that runs `loratools ARGUMENTS`, forked from this one, which has imported torch."""
    import loratools.cli.verbs.merge
    import loratools.cli.verbs.swap
    import loratools.io.rounding  # noqa: F401

    process = get_context("fork").Process(target=_become, args=(arguments,))
    process.start()
    return process


def _become(arguments: list[str]) -> None:
    from loratools.cli import main

    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    sys.argv = ["loratools", *arguments]
    main()


def _wait_for(path: Path, process: "ForkProcess") -> None:
    while not path.exists() and process.is_alive():
        time.sleep(0.001)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120, help="how many runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--strace", action="store_true", help="fail system calls instead")
    parser.add_argument("--calls", type=int, default=100, help="with --strace: the largest N")
    parser.add_argument("--kinds", type=int, default=4, help="with --strace: how many kinds of run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder, "work"), digest(FIXTURES))
        bench.folder.mkdir()
        if arguments.strace:
            states = fail_calls(bench, arguments.calls, STRACED[: arguments.kinds])
        else:
            states = kill_loop(bench, arguments.kills, arguments.seed)
    for (name, state), count in sorted(states.items()):
        print(f"{name:60} {state:30} {count:5}")
    runs = sum(count for (_, state), count in states.items() if state != LEFTOVER)
    torn = sum(count for (_, state), count in states.items() if "TORN" in state)
    left = sum(count for (_, state), count in states.items() if state == LEFTOVER)
    broken = len(bench.broken)
    print(f"{runs} runs, {torn} torn, {left} with a leftover folder, {broken} promises broken")
    return 1 if bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())
