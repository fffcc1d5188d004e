"""Compare loratools' algebra of adapters with PEFT, mergekit and dense stand-ins, as commands.

    python benchmarks/algebra.py DATA --runs 3 --only combine,resize --json runs.json

Every run is a fresh process; the tools take turns (A B C A B C …). A tool that takes minutes runs
in the first round only, and may run on a part of the task, from which the time of the whole is
extrapolated: the table says so. Outputs are compared with the optimum in float64.
"""

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from contenders import Comparison, Contender, comparisons
from machine import describe, prepare
from measure import Measurement, measure
from tools import environment, note


@final
@dataclass
class Row:
    """One contender's runs."""

    contender: Contender
    runs: list[Measurement] = field(default_factory=list)
    quality: str = ""

    @property
    def seconds(self) -> list[float]:
        """The wall-clock seconds of each run."""
        if self.contender.timed_inside:
            return [float(run.stdout.split()[-1]) for run in self.runs]
        return [run.wall_s for run in self.runs]

    @property
    def median_s(self) -> float:
        """The median time of the runs."""
        return statistics.median(self.seconds)

    def whole_s(self, rows: Sequence["Row"]) -> float:
        """The median, extrapolated to the whole task."""
        starts = [row.median_s for row in rows if row.contender.name == self.contender.start]
        start = sum(starts)
        return start + (self.median_s - start) * self.contender.times


def run(row: Row) -> None:
    """One run with warm inputs and nothing waiting to be written; its output is deleted."""
    contender = row.contender
    _delete(contender.output)
    prepare(sorted({path if path.is_dir() else path.parent for path in contender.inputs}))
    if contender.output:
        contender.output.parent.mkdir(exist_ok=True)
    row.runs.append(measure(contender.command, environment=environment(contender.environment)))
    if contender.quality and contender.output and not row.quality:
        row.quality = contender.quality(contender.output)
    _delete(contender.output)


def _delete(path: Path | None) -> None:
    if path and path.is_dir():
        shutil.rmtree(path)
    elif path:
        path.unlink(missing_ok=True)


def compare(comparison: Comparison, runs: int) -> list[Row]:
    """The runs of all contenders, which take turns."""
    rows = [Row(contender) for contender in comparison.contenders]
    for number in range(1, runs + 1):
        for row in rows:
            if number > 1 and row.contender.once:
                continue
            run(row)
            name = f"{row.contender.name} ({row.contender.on})"
            note(f"run {number}: {name}: {row.seconds[-1]:.2f} s {row.quality}")
    return rows


# --- telling --------------------------------------------------------------------------------


def table(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The runs as a Markdown table, in which extrapolated times have an ≈."""
    ours = next(row for row in rows if row.contender.name == comparison.reference)
    quality = comparison.measure_of_quality
    heads = ["tool", "measured on", "s, median (min–max)", "s for all", "× loratools", "CPU s"]
    heads += ["peak anonymous MiB", *([quality] if quality else [])]
    lines = [
        f"### {comparison.title}",
        "",
        f"| {' | '.join(heads)} |",
        f"|---|---|{'--:|' * (len(heads) - 2)}",
    ]
    for row in rows:
        times = f"{row.median_s:.2f} ({min(row.seconds):.2f}–{max(row.seconds):.2f})"
        whole = row.whole_s(rows)
        peak = statistics.median(run.peak_anonymous_bytes for run in row.runs)
        cells = [
            row.contender.name,
            row.contender.on or "–",
            times if len(row.runs) > 1 else f"{row.median_s:.2f} (once)",
            f"{'≈ ' if row.contender.times != 1 else ''}{whole:.2f}",
            f"{whole / ours.whole_s(rows):.2f}",
            f"{statistics.median(run.cpu_s for run in row.runs):.1f}",
            f"{peak / 2**20:.0f}",
            *([row.quality or "–"] if quality else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(comparison: Comparison, rows: Sequence[Row]) -> list[dict[str, object]]:
    """Every run of every contender, in seconds and bytes."""
    return [
        {
            "comparison": comparison.title,
            "tool": row.contender.name,
            "measured_on": row.contender.on,
            "seconds": seconds,
            "seconds_for_all": row.whole_s(rows),
            "wall_s": measured.wall_s,
            "cpu_s": measured.cpu_s,
            "peak_anonymous_bytes": measured.peak_anonymous_bytes,
            "max_rss_bytes": measured.max_rss_bytes,
            "quality": row.quality,
        }
        for row in rows
        for seconds, measured in zip(row.seconds, row.runs, strict=True)
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare loratools' algebra with its peers.")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder made by data.py")
    parser.add_argument("--runs", type=int, default=3, help="runs of each tool (default: 3)")
    parser.add_argument("--only", metavar="NAME,…", help="of combine, ties, resize, spectrum, …")
    parser.add_argument("--mergekit", metavar="PATH", help="mergekit-extract-lora")
    parser.add_argument("--whole", action="store_true", help="peers do all of the task too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    data: Path = arguments.data.resolve()
    executable = shutil.which(arguments.mergekit or "mergekit-extract-lora")
    if executable is None:
        note("no mergekit-extract-lora: skipped")
    scratch = data / f"algebra-{os.getpid()}"
    known = comparisons(data, scratch, executable, whole=arguments.whole)
    names = arguments.only.split(",") if arguments.only else list(known)
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown: {sorted(unknown)}; known: {list(known)}")
    inputs = {path for name in names for each in known[name].contenders for path in each.inputs}
    if missing := sorted(str(path) for path in inputs if not path.exists()):
        raise SystemExit(f"no such data: {missing}; make it with data.py and tuned.py")
    found: list[dict[str, object]] = []
    for name in names:
        rows = compare(known[name], arguments.runs)
        print(table(known[name], rows), end="\n\n", flush=True)
        found += as_json(known[name], rows)
    shutil.rmtree(scratch, ignore_errors=True)
    if arguments.json:
        report = {"machine": describe(), "runs": found}
        arguments.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
