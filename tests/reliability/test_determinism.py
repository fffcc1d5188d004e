"""The same inputs give the same bytes, whoever computes them, where, when and how."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratools import MergeOptions, WriteOptions, merge
from loratools.running.parallel import single_threaded_torch
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, SMALL, digests, run_apart
from tests.hostile.checkpoints import lora, write_adapter
from tests.reliability.umask import umask

ADAPTERS = [SMALL, FIXTURES / "adapters/dora"]


def test_the_world_does_not_show(tmp_path: Path) -> None:
    """Hash seed, time zone, language, umask, folder, spelling of paths, threads, mtimes."""
    command = ["-w", "0.5", "-w", "1", "--rounding", "stochastic", "--seed", "3"]
    copies = [
        shutil.copytree(path, tmp_path / "copies" / path.name) for path in [SHARDED, *ADAPTERS]
    ]
    for copy in copies:
        for file in copy.iterdir():
            os.utime(file, (1, 1))
    worlds = [
        (
            "one",
            {"PYTHONHASHSEED": "0", "TZ": "UTC", "LANG": "C", "OMP_NUM_THREADS": "1"},
            0o022,
            1,
        ),
        ("other", {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8"}, 0o077, 2),
    ]
    found = []
    for name, environment, mask, jobs in worlds:
        work = tmp_path / name
        work.mkdir()
        paths = (
            [os.path.relpath(path, work) for path in copies] if jobs == 2 else [SHARDED, *ADAPTERS]
        )
        with umask(mask):
            result = run_apart(
                *("merge", *paths, *command, "--jobs", jobs, "-o", "merged"),
                cwd=work,
                env=environment,
            )
        assert result.code == 0, result.err
        found.append(digests(work / "merged"))
    assert found[0] == found[1]
    assert len(found[0]) == len(list(SHARDED.iterdir()))


#: Every verb that writes adapters, in one process; its number of threads comes first.
WRITE = """
import sys
from pathlib import Path
from loratools import Combination, RankRule, Rescaling, combine, rescale, resize
jobs, fixtures = int(sys.argv[1]), Path(sys.argv[2])
small, middle, large = (fixtures / f"adapters/combine-r{rank}" for rank in (4, 8, 16))
kohya, patterns = fixtures / "kohya/sdxl-dynamic", fixtures / "adapters/rslora-patterns"
rescale(patterns, output="rescaled", rescaling=Rescaling(strength=0.3, where=[("*.mlp.*", 2)]))
rescale(kohya, output="rescaled.safetensors", rescaling=Rescaling(fold=True, balance=True))
resize(large, output="resized", size=100_000, jobs=jobs)
resize(kohya, output="resized.safetensors", rule=RankRule(energy=0.6), jobs=jobs)
combine([small, middle, patterns], output="sum", weights=[1, -2, 0.3], jobs=jobs)
for method in ("dare_ties", "della", "knots"):
    combination = Combination(method=method, seed=3)
    rule = RankRule(rank=5)
    combine([small, middle, large], output=method, combination=combination, rule=rule, jobs=jobs)
"""


def test_the_world_does_not_show_in_adapters(tmp_path: Path) -> None:
    """Hash seed, time zone, language, umask, folder and threads."""
    found = []
    for seed, jobs, mask, zone in ((0, 1, 0o022, "UTC"), (7, 2, 0o077, "Asia/Tokyo")):
        work = tmp_path / str(seed)
        work.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "TZ": zone}
        with umask(mask):
            subprocess.run(
                [sys.executable, "-c", WRITE, str(jobs), FIXTURES],
                cwd=work,
                env=environment,
                check=True,
            )
        found.append(digests(work))
    assert found[0] == found[1]
    assert len(found[0]) == 2 + 2 * 6


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base whose weights are computed in several blocks and steps, and an adapter for it."""
    folder = tmp_path_factory.mktemp("large")
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator).bfloat16()
        for name, shape in {"q.weight": (3000, 1024), "k.weight": (8, 70_000), "n": (17,)}.items()
    }
    (folder / "base").mkdir()
    save_file(weights, folder / "base" / "model.safetensors")
    shapes = lora("q", (3000, 1024), 16) | lora("k", (8, 70_000), 3)
    ranks = {"r": 16, "rank_pattern": {"k": 3}}
    return folder / "base", write_adapter(
        folder / "adapter", shapes, **ranks, target_modules=["q", "k"]
    )


def executors() -> Iterator[tuple[str, Executor]]:
    yield "one thread", ThreadPoolExecutor(1)
    yield "threads", ThreadPoolExecutor(3)
    yield "processes", ProcessPoolExecutor(2, mp_context=get_context("forkserver"))


@pytest.mark.parametrize("seed", [None, 1])
def test_an_executor_does_not_show(
    tmp_path: Path, large: tuple[Path, Path], seed: int | None
) -> None:
    base, adapter = large
    merge(base, adapter, output=tmp_path / "expected", write=WriteOptions(jobs=1, seed=seed))
    expected = digests(tmp_path / "expected")
    merge(base, adapter, output=tmp_path / "jobs", write=WriteOptions(jobs=2, seed=seed))
    assert digests(tmp_path / "jobs") == expected
    for name, executor in executors():
        with executor:
            write = WriteOptions(executor=executor, seed=seed)
            report = merge(base, adapter, output=tmp_path / name, write=write)
        assert digests(tmp_path / name) == expected
        assert list(report.fidelity) == ["k.weight", "q.weight"]


def test_a_step_computes_with_one_thread_wherever_it_runs() -> None:
    """A thread that has computed before has a number of threads of its own."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(torch.set_num_threads, 2).result()

        def number() -> int:
            with single_threaded_torch():
                return torch.get_num_threads()

        assert pool.submit(number).result() == 1
        assert pool.submit(torch.get_num_threads).result() == 2


def test_the_shards_of_the_base_do_not_show(tmp_path: Path) -> None:
    """The same tensors in one file, in their order: the same output, once it is split alike."""
    weights: dict[str, torch.Tensor] = {}
    one = tmp_path / "one"
    shutil.copytree(SHARDED, one, ignore=shutil.ignore_patterns("model*"))
    for file in sorted(SHARDED.glob("*.safetensors")):
        weights |= load_file(file)
    save_file(weights, one / "model.safetensors", {"format": "pt"})
    for size in (10**9, 100_000):
        outputs = [tmp_path / f"from {base.name} {size}" for base in (SHARDED, one)]
        for base, output in zip((SHARDED, one), outputs, strict=True):
            merge(base, ADAPTERS, output=output, write=WriteOptions(max_shard_bytes=size))
        found = [tensors(output) for output in outputs]
        assert found[0] == found[1]
    plain = tmp_path / "plain"
    merge(SHARDED, ADAPTERS, output=plain)
    assert tensors(plain) == found[0]


def tensors(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {
        name: (value.dtype, tuple(value.shape), value.view(torch.uint8).numpy().tobytes())
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


def test_the_order_of_files_in_a_folder_does_not_show(tmp_path: Path) -> None:
    for name, order in (("one", 1), ("other", -1)):
        base = tmp_path / name
        base.mkdir()
        for file in sorted(SHARDED.iterdir())[::order]:
            shutil.copyfile(file, base / file.name)
        merge(base, SMALL, output=tmp_path / f"merged {name}")
    assert digests(tmp_path / "merged one") == digests(tmp_path / "merged other")


def test_no_file_tells_when_where_or_by_whom_it_was_made(tmp_path: Path) -> None:
    merge(
        SINGLE,
        [PLAIN, FIXTURES / "adapters/lm-head"],
        output=tmp_path / "merged",
        options=MergeOptions(dtype="bfloat16"),
        write=WriteOptions(max_shard_bytes=200_000),
    )
    words = [str(tmp_path), str(FIXTURES), "/tmp/", "/home/", "/root/", "loratools"]
    words += [name for name in [socket.gethostname()] if len(name) > 3]
    for file in (tmp_path / "merged").iterdir():
        text = file.read_bytes()
        if file.suffix == ".safetensors":
            text = text[: 8 + int.from_bytes(text[:8], "little")]
        assert not [word for word in words if word.encode() in text], file.name
    index = json.loads((tmp_path / "merged/model.safetensors.index.json").read_text())
    assert list(index["metadata"]) == ["total_size"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_umask_decides_who_may_read_the_model(
    tmp_path: Path, mask: int, mode: int, overwrite: bool
) -> None:
    """And not the modes of the inputs, nor those of what is replaced."""
    output = tmp_path / "merged"
    base = shutil.copytree(SINGLE, tmp_path / "base")
    for file in base.iterdir():
        file.chmod(0o777)
    if overwrite:
        with umask(0):
            merge(base, SMALL, output=output)
    with umask(mask):
        merge(base, PLAIN, output=output, write=WriteOptions(overwrite=overwrite))
        merge(base / "model.safetensors", PLAIN, output=tmp_path / "file.safetensors")
    assert stat.S_IMODE(output.stat().st_mode) == mode | (mode & 0o444) >> 2
    for file in (*output.iterdir(), tmp_path / "file.safetensors"):
        assert stat.S_IMODE(file.stat().st_mode) == mode, file.name
