"""The same inputs give the same bytes, whoever computes them and in whatever pieces."""

import hashlib
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools.io import blocks
from loratools.merging import steps
from tests.merged import eighths, pair, write_adapter, write_base

ADAPTERS = ("dora", "embedding-lora-resized", "trainable-tokens")


class ElsewhereExecutor(Executor):
    """Runs every step as another process would: from a pickle, and a second time."""

    def submit(self, step: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        first = pickle.loads(pickle.dumps(step))(*args, **kwargs)
        again = pickle.loads(pickle.dumps(step))(*args, **kwargs)
        assert first == again
        future.set_result(pickle.loads(pickle.dumps(again)))
        return future


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("seed", [None, 3])
def test_workers_do_not_show(
    fixtures: Path, tmp_path: Path, name: str, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of a few rows each, so that every tensor is shared by many workers."""
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 1500)
    monkeypatch.setattr(steps, "_SPAN_BLOCKS", 2)
    base, adapter = fixtures / "stories260k-bf16-sharded", fixtures / "adapters" / name
    runs: list[dict[str, Any]] = [{"jobs": 1}, {"jobs": 3}, {"executor": ElsewhereExecutor()}]
    found = []
    for number, run in enumerate(runs):
        output = tmp_path / str(number)
        write = loratools.WriteOptions(seed=seed, **run)
        report = loratools.merge(base, adapter, output=output, write=write)
        found.append((digests(output), report.fidelity))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_block_size_does_not_show(
    tmp_path: Path, dtype: torch.dtype, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums are exact here; those of others are BLAS's, which may depend on the size of a block."""
    tensors = {f"layers.{i}.q.weight": eighths(20 + i, 30).to(dtype) for i in range(3)}
    tensors["conv.weight"] = eighths(7, 5, 3, 3).to(dtype)
    base = write_base(tmp_path / "base", tensors)
    convolution = {
        "conv.lora_A.weight": eighths(2, 5, 3, 3),
        "conv.lora_B.weight": eighths(7, 2, 1, 1),
    }
    magnitude = {"layers.1.q.lora_magnitude_vector": eighths(21)}
    factors = pair("layers.0.q", 20, 30) | pair("layers.1.q", 21, 30) | convolution | magnitude
    adapter = write_adapter(tmp_path / "adapter", factors)
    found = []
    for elements in (1, 31, 97, blocks.BLOCK_ELEMENTS):
        monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", elements)
        output = tmp_path / str(elements)
        write = loratools.WriteOptions(seed=seed, jobs=2)
        loratools.merge(base, adapter, output=output, write=write)
        found.append(digests(output))
    assert all(one == found[0] for one in found)


def test_seeds_of_hashes_do_not_show(fixtures: Path, tmp_path: Path) -> None:
    """Python draws the order of its sets anew in every process."""
    code = "import sys, loratools; loratools.merge(sys.argv[1], sys.argv[2:4], output=sys.argv[4])"
    adapters = [str(fixtures / "adapters" / name) for name in ("combine-r8", "trainable-tokens")]
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", code, str(fixtures / "stories260k"), *adapters, seed],
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
        )
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_base_without_a_change_is_copied_byte_for_byte(fixtures: Path, tmp_path: Path) -> None:
    """A shard that no update touches, and the order and padding of the others."""
    base = fixtures / "stories260k-bf16-sharded"
    adapter = write_adapter(tmp_path / "adapter", pair("layers.4.self_attn.q_proj", 64, 64))
    loratools.merge(base, adapter, output=tmp_path / "merged")
    before, after = digests(base), digests(tmp_path / "merged")
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [
        "model-00002-of-00002.safetensors"
    ]


@pytest.mark.parametrize("jobs", [1, 3])
def test_progress_ends_at_the_whole(fixtures: Path, tmp_path: Path, jobs: int) -> None:
    seen: list[tuple[int, int]] = []
    write = loratools.WriteOptions(
        jobs=jobs, progress=lambda done, total: seen.append((done, total))
    )
    report = loratools.merge(
        fixtures / "stories260k",
        fixtures / "adapters" / "plain",
        output=tmp_path / "merged",
        write=write,
    )
    total = 4 * sum(math.prod(t.shape) for t in report.plan.tensors.values())
    assert {whole for _, whole in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == total


def test_threads_of_torch_are_given_back(fixtures: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    loratools.merge(
        fixtures / "stories260k", fixtures / "adapters" / "plain", output=tmp_path / "merged"
    )
    assert torch.get_num_threads() == before
