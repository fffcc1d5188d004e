"""Merge LoRAs into single files of SDXL's and FLUX.1's tensors, beside diffusers and plain copies.

    python benchmarks/single_file.py DATA --planning
    python benchmarks/single_file.py DATA --only sdxl --runs 5 --ballast
    python benchmarks/single_file.py DATA --only flux --scale 2 --runs 5 --ballast

Plans are made of files of the full size, whose data are holes. For merges, `--scale` divides the
widths of all layers, so that files fit the disk. Tools take turns, as in `merge.py`. diffusers does
not write single files: it merges a folder of the same shapes.
"""

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from checkpoints import ADAPTERS, CHECKPOINTS
from machine import describe
from measure import measure
from merge import Row, as_json, compare, table
from tools import (
    CHECKOUT,
    COPY,
    DIFFUSERS,
    IDLE,
    LIMIT,
    LORATOOLS,
    LORATOOLS_WORK,
    PROGRAMS,
    Case,
    Tool,
    copy,
    environment,
    idle,
    note,
    program,
)

FILE: Final = "model.safetensors"
MERGE: Final = [sys.executable, "-m", "loratools", "merge"]
#: diffusers' converter of kohya's adapters for FLUX.1 has the widths of the real model built in.
NOT_IN_DIFFUSERS: Final = ("flux", "kohya")


def made(data: Path, name: str, scale: int, adapter: str | None = None) -> Path:
    """The folder of a checkpoint or of an adapter of it, which is written if `data` lacks it."""
    folder = data / "-".join(["single", name, str(scale), *filter(None, [adapter])])
    if not (folder / FILE).exists():
        note(f"writing {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        what = ADAPTERS[name][adapter] if adapter else CHECKPOINTS[name]
        what.write(folder / f"{FILE}.part", scale)
        (folder / f"{FILE}.part").rename(folder / FILE)
    return folder


def made_sparse(data: Path, name: str) -> Path:
    """The folder of a checkpoint of the full size whose data are holes."""
    folder = data / f"single-{name}-sparse"
    folder.mkdir(parents=True, exist_ok=True)
    CHECKPOINTS[name].write_sparse(folder / FILE)
    return folder


def made_pipeline(data: Path, name: str, scale: int) -> Path:
    """The folder of a pipeline of these shapes, which is written if `data` lacks it."""
    folder = data / f"single-{name}-{scale}-pipeline"
    if not (folder / "model_index.json").exists():
        note(f"writing {folder}")
        command = [str(PROGRAMS / "diffusers_merge.py"), "make", name, str(scale), str(folder)]
        measure([sys.executable, *command], environment=environment({}))
    return folder


def merge_command(case: Case, out: Path) -> Sequence[str]:
    out.mkdir()
    return [*MERGE, str(case.base / FILE), str(case.adapter / FILE), "-o", str(out / FILE)]


def work_command(case: Case, out: Path) -> Sequence[str]:
    out.mkdir()
    files = Case(case.title, case.base / FILE, case.adapter / FILE)
    return program("loratools_merge.py")(files, out / FILE)


def tools(pipeline: Path | None) -> Iterator[Tool]:
    """The tools that merge; diffusers if there is a pipeline for it."""
    yield Tool("idle", IDLE, idle, writes=False)
    yield Tool("loratools", LORATOOLS, merge_command, CHECKOUT)
    yield Tool("alone", LORATOOLS_WORK, work_command, CHECKOUT, timed_inside=True)
    yield Tool("cp", COPY, copy)
    yield Tool("direct", LIMIT, program("direct_write.py"), timed_inside=True)
    if pipeline is not None:

        def fuse(case: Case, out: Path) -> Sequence[str]:
            paths = [str(pipeline), str(case.adapter / FILE), str(out)]
            return [sys.executable, str(PROGRAMS / "diffusers_merge.py"), "merge", *paths]

        yield Tool("diffusers", DIFFUSERS, fuse)


def planned(name: str, base: Path, adapter: Path, runs: int) -> str:
    """A line of the table of plans: medians of seconds, wall clock and processor."""
    files = [str(base / FILE), str(adapter / FILE)]
    inside, whole = [], []
    for _ in range(runs):
        command = [sys.executable, str(PROGRAMS / "loratools_plan.py"), *files]
        run = measure(command, environment=environment(CHECKOUT))
        inside.append(tuple(map(float, run.stdout.split())))
        run = measure([*MERGE, *files, "--dry-run"], environment=environment(CHECKOUT))
        whole.append((run.wall_s, run.cpu_s))
    cells = [
        f"{statistics.median(t):.2f}" for some in (inside, whole) for t in zip(*some, strict=True)
    ]
    return f"| {name} | {' | '.join(cells)} |"


def plans(data: Path, only: Sequence[str], runs: int) -> Iterator[str]:
    """The table of plans."""
    yield "| base and adapter | plan, s | processor | `merge --dry-run`, s | processor |"
    yield "|---|--:|--:|--:|--:|"
    for name in only:
        for adapter in ADAPTERS[name]:
            base = made_sparse(data, name)
            yield planned(f"{name}, {adapter}", base, made(data, name, 1, adapter), runs)


def merged(name: str, adapter: str, options: argparse.Namespace) -> list[Row]:
    """The runs of all tools that merge an adapter into a checkpoint."""
    data, scale = options.data, options.scale
    base = made(data, name, scale)
    size = (base / FILE).stat().st_size / 1e9
    title = f"{name}, {size:.2f} GB, a LoRA in the format of {adapter}"
    case = Case(title, base, made(data, name, scale, adapter))
    left_out = options.without.split(",")
    is_installed = importlib.util.find_spec("diffusers") is not None
    is_fused = is_installed and "diffusers" not in left_out and (name, adapter) != NOT_IN_DIFFUSERS
    pipeline = made_pipeline(data, name, scale) if is_fused else None
    chosen = [tool for tool in tools(pipeline) if tool.key not in left_out]
    return compare(case, chosen, options.runs, data / "out", options.ballast)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder for the files")
    parser.add_argument("--only", help="sdxl or flux; both without it")
    parser.add_argument("--scale", type=int, default=1, choices=(1, 2, 4))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--planning", action="store_true", help="measure plans, not merges")
    parser.add_argument("--ballast", action="store_true", help="fill the page cache before runs")
    parser.add_argument(
        "--without", default="", help="keys of tools to leave out: direct,diffusers"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    options.data.mkdir(parents=True, exist_ok=True)
    options.ballast = options.data / "ballast" if options.ballast else None
    only = [options.only] if options.only else list(CHECKPOINTS)
    print(describe())
    if options.planning:
        for line in plans(options.data, only, options.runs):
            print(line, flush=True)
        return
    measured = []
    for name in only:
        for adapter in ADAPTERS[name]:
            rows = merged(name, adapter, options)
            print(f"\n{table(rows)}", flush=True)
            measured.append(as_json(rows))
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
