"""Time inspect and convert of LoRAs on whole image models, beside diffusers' converter.

    python benchmarks/convert.py DATA --runs 5

A whole command is a process from its start to its end. The work is what a process does after its
imports: from the file's path to the description, or from a path to a file on disk. The tools take
turns; the table has medians and ranges of the seconds, and medians of the processor's seconds,
which depend less on what else the machine does.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from draws import write_safetensors
from image import IMAGE_LORAS
from machine import describe
from measure import measure
from tools import CHECKOUT, PROGRAMS, environment

MODULE: Final = [sys.executable, "-m", "loratools"]
INSPECT: Final = """
import sys, time, loratools
loratools.inspect(sys.argv[1]).to_json()
began = time.perf_counter(), time.process_time()
loratools.inspect(sys.argv[2]).to_json()
print(time.perf_counter() - began[0], time.process_time() - began[1])
"""
#: The files that both can convert: neither has a name for a T5 in a pipeline of FLUX.1.
CONVERTED: Final = ("flux", "sdxl")


def made(data: Path, name: str) -> Path:
    """The file of this name, which is written if `data` lacks it."""
    path = data / f"image-{name}.safetensors"
    if not path.exists():
        data.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, IMAGE_LORAS[name].tensors(), path.stem)
    return path


def commands(data: Path, name: str, output: Path) -> Iterator[tuple[str, list[str], bool]]:
    """What is timed: a label, the command, and whether it prints its own seconds."""
    file, small = made(data, name), made(data, f"small-{name.partition('-')[0]}")
    file_of = str(file)
    yield "`inspect`, whole command", [*MODULE, "inspect", file_of, "--json"], False
    yield "`inspect`, work", [sys.executable, "-c", INSPECT, str(small), file_of], True
    if name not in CONVERTED:
        return
    whole = [*MODULE, "convert", file_of, "--to", "diffusers", "-o", f"{output}-0.safetensors"]
    yield "`convert --to diffusers`, whole command", whole, False
    program = [sys.executable, str(PROGRAMS / "timed_convert.py")]
    for number, tool in enumerate(("loratools", "diffusers"), start=1):
        paths = [str(small), file_of, f"{output}-{number}.safetensors"]
        yield f"{tool}: convert, work", [*program, tool, *paths], True


def rows(data: Path, name: str, runs: int) -> Iterator[str]:
    """The lines of the table of one file."""
    seconds: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory(dir=data) as scratch:
            for label, command, is_timed in commands(data, name, Path(scratch) / "out"):
                run = measure(command, environment=environment(CHECKOUT))
                times = map(float, run.stdout.split()) if is_timed else (run.wall_s, run.cpu_s)
                seconds.setdefault(label, []).append(tuple(times))
    middles = {}
    for label, found in seconds.items():
        walls, processors = zip(*found, strict=True)
        middles[label] = wall, processor = statistics.median(walls), statistics.median(processors)
        yield f"| {label} | {wall:.2f} ({min(walls):.2f}–{max(walls):.2f}) | {processor:.2f} |"
    if name in CONVERTED:
        ours, theirs = (middles[f"{tool}: convert, work"] for tool in ("loratools", "diffusers"))
        ratios = [f"{our / their:.2f}" for our, their in zip(ours, theirs, strict=True)]
        yield f"| loratools / diffusers | {' | '.join(ratios)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder for the files")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    print(describe())
    for name in ("flux", "flux-t5", "sdxl"):
        modules = len(IMAGE_LORAS[name].modules)
        size = made(options.data, name).stat().st_size / 1e6
        print(f"\n| {name}: {modules} modules, {3 * modules} keys, {size:.0f} MB | s | processor |")
        print("|---|--:|--:|")
        for row in rows(options.data, name, options.runs):
            print(row, flush=True)


if __name__ == "__main__":
    main()
