"""Compare the loss to rounding that a merge reports with the true one; and what the measure costs.

    python benchmarks/fidelity.py              # the table of structured updates
    python benchmarks/fidelity.py --cost DATA  # merges of data.py's model, measured and not

Every update of the table is merged by `loratools.merge`, from files to files. The truth is computed
from those files, without loratools, in float64 and over every element.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.merging import edit
from loratools.merging.fidelity import Fidelity

SHAPES: Final = ((1024, 1024), (2048, 2048), (8192, 1024))
RANK: Final = 8
TARGET: Final = "layers.0.self_attn.q_proj"
#: An early version measured only the first eighth of the rows of each block of 2^20 elements.
FIRST_EIGHTH: Final = 8


@final
@dataclass(frozen=True)
class Factors:
    """One adapter: `up` is (rows, rank), `down` (rank, columns); a DoRA has a magnitude per row."""

    up: Tensor
    down: Tensor
    magnitude: Tensor | None = None


@final
@dataclass(frozen=True)
class Case:
    """A weight, and the adapters merged into it."""

    weight: Tensor
    adapters: tuple[Factors, ...]

    @property
    def exact(self) -> Tensor:
        """The merged weight, computed in float64 and not rounded."""
        result = self.weight.double()
        for each in self.adapters:
            result = result + each.up.double() @ each.down.double()
            if each.magnitude is not None:
                norm = result.norm(dim=1, keepdim=True)
                result = each.magnitude.double()[:, None] * result / norm
        return result


def random(*shape: int) -> Tensor:
    return torch.randn(*shape)


def lora(rows: int, columns: int, size: float = 3e-4) -> Factors:
    """An update with entries of about `size`; the last bit of a bfloat16 of 0.02 is about 1e-4."""
    return Factors(random(rows, RANK) * size / RANK**0.5, random(RANK, columns))


def shaped(rows: int, columns: int, by_row: Tensor, by_column: Tensor | None = None) -> Case:
    """A weight of Gaussian values, and a LoRA whose rows and columns are multiplied by factors."""
    plain = lora(rows, columns)
    down = plain.down if by_column is None else plain.down * by_column
    return Case(normal_weight(rows, columns), (Factors(plain.up * by_row[:, None], down),))


def normal_weight(rows: int, columns: int) -> Tensor:
    return (random(rows, columns) * 0.02).bfloat16()


def where(condition: Tensor, inside: float = 1.0, outside: float = 0.0) -> Tensor:
    return torch.where(condition, inside, outside)


def of_rows(select: Callable[[Tensor, int, int], Tensor], inside: float, outside: float) -> "Make":
    """A LoRA that is `inside` times as strong in some rows and `outside` times in the others."""

    def make(rows: int, columns: int) -> Case:
        return shaped(
            rows, columns, where(select(torch.arange(rows), rows, columns), inside, outside)
        )

    return make


def of_columns(select: Callable[[Tensor, int], Tensor]) -> "Make":
    def make(rows: int, columns: int) -> Case:
        by_column = where(select(torch.arange(columns), columns))
        return shaped(rows, columns, torch.ones(rows), by_column)

    return make


def corner(rows: int, columns: int) -> Case:
    return shaped(
        rows, columns, where(torch.arange(rows) >= rows - 64), where(torch.arange(columns) < 64)
    )


def one_entry(rows: int, columns: int) -> Case:
    by_row = where(torch.arange(rows) == rows - 3)
    return shaped(rows, columns, by_row, where(torch.arange(columns) == 5))


def spiky(rows: int, columns: int) -> Case:
    plain = lora(rows, columns)
    up, down = plain.up**5 / plain.up.std() ** 4, plain.down**5
    return Case(normal_weight(rows, columns), (Factors(up / 300, down / 30),))


def two_scales(rows: int, columns: int) -> Case:
    scale = where(torch.arange(rows) < rows // 2, 1.0, 1e-4)[:, None]
    weight = (random(rows, columns) * 0.02 * scale).bfloat16()
    return Case(weight, (lora(rows, columns, 1e-6),))


def pruned(rows: int, columns: int) -> Case:
    """An update far below float32's last bit of the weight, except where the weight is 0."""
    weight = normal_weight(rows, columns) * (torch.rand(rows, columns) < 0.8)
    return Case(weight, (lora(rows, columns, 1e-11),))


def cancelling(rows: int, columns: int) -> Case:
    one = lora(rows, columns, 1e-2)
    rest = lora(rows, columns, 2e-4)
    return Case(normal_weight(rows, columns), (one, Factors(-one.up, one.down), rest))


def dora(rows: int, columns: int) -> Case:
    weight = normal_weight(rows, columns)
    norm = weight.float().norm(dim=1)
    scale = where(torch.arange(rows) >= rows - rows // 16, 1.3, 1.0004)
    plain = lora(rows, columns, 1e-5)
    return Case(weight, (Factors(plain.up, plain.down, norm * scale),))


def first_of_blocks(row: Tensor, _: int, columns: int) -> Tensor:
    block = 2**20 // columns
    return row % block < block // FIRST_EIGHTH


Make = Callable[[int, int], Case]
STRUCTURES: Final[dict[str, Make]] = {
    "everywhere alike": of_rows(lambda row, _, __: row >= 0, 1, 1),
    "last third of the rows (v of a fused qkv)": of_rows(lambda i, n, _: i >= n - n // 3, 1, 0),
    "last 2 % of the rows (new tokens)": of_rows(lambda i, n, _: i >= n - n // 50, 1, 0),
    "weak top half, strong bottom half": of_rows(lambda i, n, _: i < n // 2, 1e-3, 100),
    "strong top half, weak bottom half": of_rows(lambda i, n, _: i < n // 2, 100, 0.3),
    "every second row": of_rows(lambda i, _, __: i % 2 == 1, 1, 0),
    "all but every eighth row": of_rows(lambda i, _, __: i % 8 != 0, 1, 0),
    "strong in the first eighth of each block": of_rows(first_of_blocks, 100, 3),
    "the last row": of_rows(lambda i, n, _: i == n - 1, 1, 0),
    "every 64th column": of_columns(lambda j, _: j % 64 == 63),
    "last 16 columns": of_columns(lambda j, n: j >= n - 16),
    "a corner of 64 × 64": corner,
    "one entry": one_entry,
    "spikes": spiky,
    "weights of two scales": two_scales,
    "far weaker than the weights": pruned,
    "two adapters that cancel, and a third": cancelling,
    "DoRA that rescales some rows": dora,
}


def write(case: Case, folder: Path) -> tuple[Path, list[Path]]:
    """Write the base and the adapters of a case, and return their paths."""
    base = folder / "base"
    base.mkdir(parents=True)
    save_file({f"{TARGET}.weight": case.weight}, base / "model.safetensors")
    adapters = []
    for number, each in enumerate(case.adapters):
        path = folder / str(number)
        path.mkdir()
        module = f"base_model.model.{TARGET}"
        tensors = {f"{module}.lora_A.weight": each.down, f"{module}.lora_B.weight": each.up}
        config: dict[str, object] = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
        config["target_modules"] = ["q_proj"]
        if each.magnitude is not None:
            tensors[f"{module}.lora_magnitude_vector"] = each.magnitude
            config["use_dora"] = True
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config))
        adapters.append(path)
    return base, adapters


def printed_and_true(case: Case, folder: Path, seed: int | None) -> tuple[float, float]:
    """The relative error that the report prints, and the one computed from the files."""
    base, adapters = write(case, folder)
    options = loratools.WriteOptions(seed=seed)
    report = loratools.merge(base, adapters, output=folder / "merged", write=options)
    assert report.total is not None
    before = case.weight.double()
    merged = load_file(folder / "merged" / "model.safetensors")[f"{TARGET}.weight"].double()
    intended = case.exact - before
    error = float((merged - before - intended).norm() / intended.norm())
    shutil.rmtree(folder)
    return report.total.relative_error, error


def table(folder: Path, shapes: Sequence[tuple[int, int]]) -> str:
    """The table of printed and true losses of every structure, and their largest difference."""
    heads = [f"{m}×{n}, {how}" for m, n in shapes for how in ("nearest", "stochastic")]
    lines = [
        "| update | " + " | ".join(f"{head}: printed (true)" for head in heads) + " |",
        "|---|" + "--:|" * len(heads),
    ]
    worst = 0.0
    for name, make in STRUCTURES.items():
        cells = []
        for shape in shapes:
            torch.manual_seed(0)
            case = make(*shape)
            for seed in (None, 1):
                printed, true = printed_and_true(case, folder / "case", seed)
                worst = max(worst, abs(printed / true - 1))
                cells.append(f"{100 * printed:.4g} % ({100 * true:.4g} %)")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"The largest difference between printed and true is {worst:.1e} of the true one.",
    ]
    return "\n".join(lines)


# --- the cost -------------------------------------------------------------------------------


def merge_seconds(base: Path, adapter: Path, output: Path) -> tuple[float, float]:
    """Wall and CPU time of a merge, imports excluded and fsync included."""
    shutil.rmtree(output, ignore_errors=True)
    wall, cpu = time.perf_counter(), time.process_time()
    loratools.merge(base, adapter, output=output)
    return time.perf_counter() - wall, time.process_time() - cpu


def cost(data: Path, runs: int) -> str:
    """The table of merges with and without the measure, in turn; shares are of those with it."""
    base, output = data / "base-1b", data / "merged-fidelity"
    lines = [
        "| adapter | wall s, measured | not measured | share | CPU s, measured | not | share |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ("adapter-1b-all", "adapter-1b-qv"):
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        merge_seconds(base, data / name, output)
        for _ in range(runs):
            found[True].append(merge_seconds(base, data / name, output))
            with mock.patch.object(edit, "measure", return_value=Fidelity()):
                found[False].append(merge_seconds(base, data / name, output))
        cells = []
        for which in (0, 1):
            with_it, without = (
                statistics.median(run[which] for run in found[is_measured])
                for is_measured in (True, False)
            )
            cells += [f"{with_it:.2f}", f"{without:.2f}", f"{1 - without / with_it:.0%}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    shutil.rmtree(output, ignore_errors=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fidelity, printed and true; and its cost.")
    parser.add_argument("--cost", type=Path, metavar="DATA", help="folder made by data.py")
    parser.add_argument("--runs", type=int, default=5, help="merges of each kind (default: 5)")
    arguments = parser.parse_args()
    if arguments.cost:
        print(cost(arguments.cost, arguments.runs))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(table(Path(folder), SHAPES))


if __name__ == "__main__":
    main()
