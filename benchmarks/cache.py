"""What a merge of a base larger than memory costs other programs: their files in the page cache.

    python benchmarks/cache.py DATA --limit 800 --code CHECKOUT --code OLDER_CHECKOUT

Linux, as root: the merge runs in a control group (of version 1 or 2) with little memory, beside a
file that another program in that group has read once. The base is not cached when it starts.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OTHER_BYTES = 200 * 2**20


@contextmanager
def limited(mebibytes: int) -> Iterator[Path]:
    """A control group with this much memory, which is removed at the end."""
    is_old = (_GROUPS / "memory").is_dir()
    group = (_GROUPS / "memory" if is_old else _GROUPS) / f"loratools-{os.getpid()}"
    group.mkdir()
    try:
        name = "memory.limit_in_bytes" if is_old else "memory.max"
        (group / name).write_text(str(mebibytes * 2**20))
        yield group
    finally:
        time.sleep(0.5)  # a process that has ended leaves its group a little later
        group.rmdir()


def enter(group: Path) -> None:
    """Put this process into a group."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


def drop(file: Path) -> None:
    """Take a file out of the page cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached(files: Sequence[Path]) -> int:
    """The bytes of some files that are in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, files)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return sum(map(int, done.stdout.split()))


def run(code: Path, base: Path, adapter: Path, out: Path, limit: int) -> str:
    """Merge once with the package of `code`; return a row of the table."""
    other, weights = out.with_name("other"), sorted(base.glob("*.safetensors"))
    if not other.exists():
        other.write_bytes(os.urandom(_OTHER_BYTES))
    for file in (*weights, other):
        drop(file)
    shutil.rmtree(out, ignore_errors=True)
    with limited(limit) as group:
        into = partial(enter, group)
        subprocess.run(["cat", other], check=True, stdout=subprocess.DEVNULL, preexec_fn=into)
        before, start = cached([other]), time.perf_counter()
        command = [sys.executable, "-m", "loratools", "merge", base, adapter, "-o", out]
        environment = os.environ | {"PYTHONPATH": str(code.resolve())}
        subprocess.run(
            *(command,),
            check=True,
            capture_output=True,
            env=environment,
            preexec_fn=into,
            cwd="/",
        )
        seconds = time.perf_counter() - start
        kept, left = cached([other]) / before, cached(weights)
    size = sum(file.stat().st_size for file in weights)
    shutil.rmtree(out)
    return (
        f"| {code.name} | {limit} | {seconds:.2f} | {size / seconds / 1e9:.2f} "
        f"| {kept:.0%} | {left / 2**20:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a merge leaves to other programs.")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder made by data.py")
    parser.add_argument("--adapter", default="adapter-1b-qv", metavar="NAME")
    parser.add_argument("--limit", type=int, action="append", metavar="MIB", help="memory")
    parser.add_argument("--code", type=Path, action="append", metavar="FOLDER", help="a checkout")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    data: Path = arguments.data.resolve()
    codes = arguments.code or [Path(__file__).parents[1]]
    print("| code | memory, MiB | s | GB/s | other file still cached | of the base, MiB |")
    print("|---|--:|--:|--:|--:|--:|")
    for _ in range(arguments.runs):
        for limit in arguments.limit or [800]:
            for code in codes:
                base, adapter = data / "base-1b", data / arguments.adapter
                print(run(code, base, adapter, data / "merged", limit), flush=True)


if __name__ == "__main__":
    main()
