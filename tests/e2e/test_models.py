"""From the command line to a model that other libraries load and run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, SMALL, digests, run_here

transformers = pytest.importorskip("transformers")
TOKENS = torch.arange(1, 120, 7)[None]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def loratools(*arguments: str | Path) -> str:
        result = run_here(capsys, *arguments)
        assert result.code == 0, result.err
        return result.out

    return loratools


def logits(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


def farther(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


def test_an_adapter_acts_and_can_be_taken_out_again(
    run: Callable[..., str], tmp_path: Path
) -> None:
    """What comes back is the base but for two roundings of every weight to float32.

    A rounding moves a weight by 2^-24 of itself at most, and the adapter moves the logits by far
    more than a millionth.
    """
    run("merge", SINGLE, PLAIN, "-o", tmp_path / "merged")
    run("merge", tmp_path / "merged", PLAIN, "-w", "-1", "-o", tmp_path / "back")
    base = logits(SINGLE)
    moved = farther(logits(tmp_path / "merged"), base)
    assert moved > 0.1
    assert farther(logits(tmp_path / "back"), base) < 1e-5 * moved


@pytest.mark.parametrize("name", ["plain", "dora", "combine-r8", "embedding-vocab"])
def test_a_plan_a_merge_and_a_reload_agree(
    run: Callable[..., str], tmp_path: Path, name: str
) -> None:
    adapter = FIXTURES / "adapters" / name
    inspected = json.loads(run("inspect", adapter, "--json"))
    planned = json.loads(run("merge", SINGLE, adapter, "--dry-run", "--json"))
    made = json.loads(run("merge", SINGLE, adapter, "-o", tmp_path / "merged", "--json"))
    assert planned["accounting"] == made["accounting"]
    assert planned["files"] == made["files"]
    assert made["adapters"][0]["kinds"] == inspected["kinds"]
    assert logits(tmp_path / "merged").isfinite().all()


def test_adapters_merged_together_are_rounded_once(run: Callable[..., str], tmp_path: Path) -> None:
    """One after the other is farther from what they add up to, in bfloat16."""
    together, apart = tmp_path / "together", tmp_path / "apart"
    run("merge", SHARDED, PLAIN, SMALL, "-o", together)
    run("merge", SHARDED, PLAIN, "-o", tmp_path / "first")
    run("merge", tmp_path / "first", SMALL, "-o", apart)
    run("merge", SHARDED, PLAIN, SMALL, "--dtype", "float32", "-o", tmp_path / "exact")
    assert digests(together) != digests(apart)
    exact = weights(tmp_path / "exact")
    errors = [
        sum((value.double() - exact[name].double()).square().sum().item() for name, value in found)
        for found in (weights(together).items(), weights(apart).items())
    ]
    assert errors[0] < errors[1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tensors: dict[str, torch.Tensor] = model.state_dict()
    return tensors


def test_a_merged_model_is_a_base_like_any_other(run: Callable[..., str], tmp_path: Path) -> None:
    """Split, joined, replaced by itself: each is the same model."""
    run("merge", SHARDED, PLAIN, "-o", tmp_path / "a", "--max-shard-size", "100KB")
    run("merge", SHARDED, PLAIN, "-o", tmp_path / "b")
    run("merge", SHARDED, PLAIN, "-o", tmp_path / "b", "--max-shard-size", "1GB", "--overwrite")
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 4
    assert [path.name for path in (tmp_path / "b").glob("model*")] == ["model.safetensors"]
    assert torch.equal(logits(tmp_path / "a"), logits(tmp_path / "b"))
