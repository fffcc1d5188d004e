"""Compare merging an adapter into its base with PEFT, mergekit and plain copies of the files.

    python benchmarks/merge.py DATA --runs 5 --ballast --mergekit PATH

Every run is a fresh process; the tools take turns (A B C A B C …), so that a slow minute of the
machine affects all of them. The inputs are in the page cache, and the outputs of earlier runs are
deleted or on disk before the clock starts. loratools and the copies end with their bytes on disk
(fsync), the others in the page cache.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final

from machine import describe, fill_page_cache, prepare, seconds_to_sync
from measure import Measurement, measure
from tools import (
    COPY,
    DIFFUSERS,
    IDLE,
    LIMIT,
    LORATOOLS,
    LORATOOLS_WORK,
    MERGEKIT,
    PEFT,
    Case,
    Tool,
    available,
    environment,
    note,
    weight_bytes,
)

#: Which tools are compared beside the table.
RATIOS: Final = (
    (LORATOOLS_WORK, COPY),
    (LORATOOLS_WORK, LIMIT),
    (PEFT, LORATOOLS),
    (MERGEKIT, LORATOOLS),
    (DIFFUSERS, LORATOOLS),
)


@final
@dataclass(frozen=True)
class Row:
    """One tool's runs on one case."""

    case: Case
    tool: Tool
    runs: list[Measurement] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """The wall-clock seconds of each run."""
        if self.tool.timed_inside:
            return [_seconds_printed(run) for run in self.runs]
        return [run.wall_s for run in self.runs]

    @property
    def durable_seconds(self) -> list[float]:
        """The seconds of each run, including those in which the kernel then finished writing."""
        return [s + run.sync_s for s, run in zip(self.seconds, self.runs, strict=True)]

    @property
    def median_s(self) -> float:
        """The median time of the runs."""
        return statistics.median(self.seconds)

    @property
    def durable_s(self) -> float:
        """The median time of the runs until their bytes are on disk."""
        return statistics.median(self.durable_seconds)

    @property
    def spread(self) -> float:
        """How far the runs lie apart, as a share of their median."""
        return (max(self.seconds) - min(self.seconds)) / self.median_s

    @property
    def anonymous_bytes(self) -> float:
        """The median of the runs' peaks."""
        return statistics.median(run.peak_anonymous_bytes for run in self.runs)


def _seconds_printed(run: Measurement) -> float:
    return float(run.stdout.split()[-1])


def run(tool: Tool, case: Case, out: Path, ballast: Path | None) -> Measurement:
    """One run with warm inputs and nothing waiting to be written; its output is deleted.

    Raises:
        SystemExit: the tool wrote more or less than one model.
    """
    shutil.rmtree(out, ignore_errors=True)
    command = tool.command(case, out)
    if ballast:
        fill_page_cache(ballast)
    prepare([case.base, case.adapter])
    measured = measure(command, environment=environment(tool.environment))
    measured = replace(measured, sync_s=seconds_to_sync())
    model = out / "model" if (out / "model").is_dir() else out
    written = weight_bytes(model)
    shutil.rmtree(out, ignore_errors=True)
    if tool.writes and abs(written - case.base_bytes) > case.base_bytes // 1000:
        raise SystemExit(f"{tool.name}: wrote {written} bytes of a {case.base_bytes}-byte model")
    return measured


def compare(
    case: Case, candidates: Sequence[Tool], runs: int, out: Path, ballast: Path | None
) -> list[Row]:
    """The runs of all tools on one case, in turn."""
    rows = [Row(case, tool) for tool in candidates]
    for number in range(1, runs + 1):
        for row in rows:
            row.runs.append(run(row.tool, case, out, ballast))
            note(f"{case.title}, run {number}: {row.tool.name}: {row.seconds[-1]:.2f} s")
    return rows


# --- telling --------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of one case, and a line for each ratio that says how fast a merge is."""
    named = {row.tool.name: row for row in rows}
    reference, idle = named.get(LORATOOLS), named.get(IDLE)
    lines = [
        f"### {rows[0].case.title}",
        "",
        "| tool | wall s, median (min–max) | spread | × loratools | until on disk, s | × loratools "
        "| peak anonymous MiB | above idle torch |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, high, peak = min(row.seconds), max(row.seconds), row.anonymous_bytes
        times = f"{row.median_s / reference.median_s:.2f}" if reference else "–"
        durable_times = f"{row.durable_s / reference.durable_s:.2f}" if reference else "–"
        is_above = idle is not None and peak > idle.anonymous_bytes
        above = f"{(peak - idle.anonymous_bytes) / 2**20:.0f}" if idle and is_above else "–"
        lines.append(
            f"| {row.tool.name} | {row.median_s:.2f} ({low:.2f}–{high:.2f}) "
            f"| {100 * row.spread:.0f} % | {times} "
            f"| {row.durable_s:.2f} | {durable_times} | {peak / 2**20:.0f} | {above} |"
        )
    return "\n".join([*lines, "", *ratios(named)])


def ratios(named: Mapping[str, Row]) -> Iterator[str]:
    """The median times of two tools as a ratio, for each pair whose tools both ran."""
    for one, other in RATIOS:
        if one in named and other in named:
            ratio = named[one].median_s / named[other].median_s
            durable = named[one].durable_s / named[other].durable_s
            yield f"- {one} / {other}: {ratio:.2f}; until on disk {durable:.2f}"


def as_json(rows: Sequence[Row]) -> dict[str, object]:
    """Every run of every tool, in seconds and bytes."""
    return {
        "machine": describe(),
        "runs": [
            {
                "case": row.case.title,
                "base_bytes": row.case.base_bytes,
                "tool": row.tool.name,
                "seconds": seconds,
                "wall_s": measured.wall_s,
                "sync_s": measured.sync_s,
                "cpu_s": measured.cpu_s,
                "peak_anonymous_bytes": measured.peak_anonymous_bytes,
                "max_rss_bytes": measured.max_rss_bytes,
                "stdout": measured.stdout,
            }
            for row in rows
            for seconds, measured in zip(row.seconds, row.runs, strict=True)
        ],
    }


def cases(data: Path, *, memory: bool) -> list[Case]:
    """The two cases that are compared, or the three bases on which memory is measured."""
    if memory:
        return [
            Case("1.2 B, all linears", data / "base-1b", data / "adapter-1b-all"),
            Case("3.4 B, all linears", data / "base-3b", data / "adapter-3b-all"),
            Case("one 4.1 GB embedding", data / "base-embedding-4gb", data / "adapter-embedding"),
        ]
    return [
        Case("1.2 B, rank 16, all linears", data / "base-1b", data / "adapter-1b-all"),
        Case("1.2 B, rank 16, q and v", data / "base-1b", data / "adapter-1b-qv"),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare ways to merge an adapter into its base.")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder made by data.py")
    parser.add_argument("--runs", type=int, default=3, help="runs of each tool (default: 3)")
    parser.add_argument("--adapter", metavar="NAME", help="only the case with this adapter")
    parser.add_argument("--only", metavar="TOOL,…", help="only these, as loratools,alone,cp,direct")
    parser.add_argument("--mergekit", default="mergekit-yaml", metavar="PATH", help="executable")
    parser.add_argument("--tuned-malloc", action="store_true", help="add PEFT with tuned malloc")
    parser.add_argument("--memory", action="store_true", help="loratools only, three sizes of base")
    parser.add_argument("--warm-up", action="store_true", help="begin with a round not counted")
    parser.add_argument("--ballast", action="store_true", help="fill the page cache before a run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there")
    return parser.parse_args()


def candidates_of(arguments: argparse.Namespace) -> list[Tool]:
    """The tools to run: all that are available, or only loratools and an idle torch."""
    found = list(
        available(mergekit_executable=arguments.mergekit, tuned_malloc=arguments.tuned_malloc)
    )
    if arguments.memory:
        return [tool for tool in found if tool.name in {IDLE, LORATOOLS}]
    if arguments.only is None:
        return found
    by_key = {tool.key: tool for tool in found}
    keys: list[str] = arguments.only.split(",")
    if absent := [key for key in keys if key not in by_key]:
        raise SystemExit(f"no such tool here: {absent[0]!r}; there are {', '.join(by_key)}")
    return [by_key[key] for key in keys]


def main() -> None:
    arguments = parse()
    data: Path = arguments.data.resolve()
    chosen = [
        case
        for case in cases(data, memory=arguments.memory)
        if arguments.adapter in {None, case.adapter.name}
    ]
    missing = [str(p) for case in chosen for p in (case.base, case.adapter) if not p.is_dir()]
    if missing or not chosen:
        raise SystemExit(f"no such data: {missing or arguments.adapter!r}; make it with data.py")
    candidates, out = candidates_of(arguments), data / "merged"
    ballast = data / "ballast" if arguments.ballast else None
    if arguments.warm_up:
        note("a first round, to load the programs; not counted")
        compare(chosen[0], candidates, 1, out, ballast)
    rows: list[Row] = []
    for case in chosen:
        of_case = compare(case, candidates, arguments.runs, out, ballast)
        print(table(of_case), end="\n\n", flush=True)
        rows += of_case
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(rows), indent=2) + "\n")


if __name__ == "__main__":
    main()
