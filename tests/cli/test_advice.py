"""What a refusal advises works: each piece of advice is followed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratools import methods, registry
from tests.cli.results import refused
from tests.e2e.commands import Result, run_here
from tests.merged import eighths, pair, write_adapter, write_base

Run = Callable[..., Result]
EXPERTS = "model.layers.0.mlp.switch_mlp.up_proj"


@pytest.fixture
def run(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`loratools …` in a folder with a base and adapters of several kinds."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return eighths(*shape, generator=generator)

    base = {"m.a": numbers(4, 6), "m.b": numbers(4, 6), EXPERTS: numbers(3, 4, 6)}
    write_base(Path("base"), {f"{name}.weight": tensor for name, tensor in base.items()})
    factors = pair("m.a", 4, 6)
    write_adapter(Path("lora"), factors)
    magnitude = {"m.a.lora_magnitude_vector": torch.ones(4)}
    write_adapter(Path("dora"), {**factors, **magnitude}, use_dora=True)
    head = {"m.b.weight": numbers(4, 6)}
    write_adapter(Path("head"), {**factors, **head}, modules_to_save=["m.b"])
    Path("experts").mkdir()
    pairs = {f"{EXPERTS}.lora_a": numbers(3, 2, 6), f"{EXPERTS}.lora_b": numbers(3, 4, 2)}
    save_file(pairs, "experts/adapters.safetensors")
    parameters = '{"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["mlp.switch_mlp.up_proj"]}'
    Path("experts/adapter_config.json").write_text(
        f'{{"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {parameters}}}'
    )
    return lambda *arguments: run_here(capsys, *arguments)


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


@pytest.mark.parametrize("method", registry.names(methods))
def test_a_kind_without_factors_is_added_by_a_merge(run: Run, method: str) -> None:
    """`combine` and `resize` need factors, which stacked experts do not have for the stack."""
    says = "no factors.*`loratools merge` adds it"
    rank = ["--method", method, "--rank", 1]
    assert refused(run("combine", "experts", "experts", *rank, "-o", "out"), 1, says)
    assert refused(run("resize", "experts", "--rank", 1, "-o", "out"), 1, says)
    assert run("merge", "base", "experts", "experts", "-o", "merged").code == 0
    change = weights("merged")[f"{EXPERTS}.weight"] - weights("base")[f"{EXPERTS}.weight"]
    tensors = load_file("experts/adapters.safetensors")
    expected = 4 * tensors[f"{EXPERTS}.lora_b"] @ tensors[f"{EXPERTS}.lora_a"]
    torch.testing.assert_close(change, expected, rtol=0, atol=0)


@pytest.mark.parametrize("method", registry.names(methods))
def test_a_kind_that_depends_on_the_weight_is_combined_beside_a_base(run: Run, method: str) -> None:
    command = ["combine", "dora", "lora", "--method", method]
    assert refused(run(*command, "--rank", 2, "-o", "out"), 1, "with --base, and .* with --rank")
    assert run(*command, "--rank", 2, "--base", "base", "-o", "out").code == 0


def test_a_kind_that_depends_on_the_weight_is_rescaled_beside_a_base(run: Run) -> None:
    command = ["rescale", "dora", "--strength", 0.5, "-o", "out"]
    assert refused(run(*command), 1, "with --base, and .* with --rank")
    assert run(*command, "--base", "base", "--rank", 2).code == 0


def test_an_adapter_with_a_trained_head_gets_a_fractional_weight(run: Run) -> None:
    command = ["merge", "base", "head", "-w", 0.5]
    says = r"no weight of 0\.5; leave it out with --skip 'm.b.weight', or merge with weight 1 what "
    assert refused(run(*command, "-o", "out"), 1, says)
    assert "`loratools rescale --strength 0.5 --keep-replaced`" in run(*command, "-o", "out").err
    assert run(*command, "--skip", "m.b.weight", "-o", "skipped").code == 0
    assert run("rescale", "head", "--strength", 0.5, "--keep-replaced", "-o", "half").code == 0
    assert run("merge", "base", "half", "-o", "out").code == 0
    found, skipped, whole = (
        weights("out"),
        weights("skipped"),
        load_file("head/adapter_model.safetensors"),
    )
    torch.testing.assert_close(found["m.a.weight"], skipped["m.a.weight"], rtol=0, atol=0)
    torch.testing.assert_close(
        found["m.b.weight"], whole["base_model.model.m.b.weight"], rtol=0, atol=0
    )
    torch.testing.assert_close(skipped["m.b.weight"], weights("base")["m.b.weight"], rtol=0, atol=0)


@pytest.mark.parametrize("weight", ["-1", "0"])
def test_a_head_that_would_be_taken_back_is_left_out(run: Run, weight: str) -> None:
    command = ["merge", "base", "head", "-w", weight, "-o", "out"]
    assert refused(run(*command), 1, "--skip 'm.b.weight', or use weight 1 for it")
    assert run(*command, "--skip", "m.b.weight").code == 0


def test_a_head_is_rescaled_by_keeping_it(run: Run) -> None:
    command = ["rescale", "head", "--strength", 0.5, "-o", "out"]
    assert refused(run(*command), 1, "--keep-replaced keeps them")
    assert run(*command, "--keep-replaced").code == 0


def test_heads_that_differ_are_combined_by_a_choice(run: Run) -> None:
    command = ["combine", "head", "lora", "-o"]
    assert refused(run(*command, "out"), 1, "--replaced first or average decides")
    assert run(*command, "first", "--replaced", "first").code == 0
    write_adapter(
        Path("other"),
        {**pair("m.a", 4, 6), "m.b.weight": torch.ones(4, 6)},
        modules_to_save=["m.b"],
    )
    assert run("combine", "head", "other", "--replaced", "average", "-o", "average").code == 0


def test_an_output_that_exists_is_overwritten_on_demand(run: Run) -> None:
    for command in (
        ["merge", "base", "lora"],
        ["rescale", "lora", "--strength", 0.5],
        ["resize", "lora", "--rank", 1],
        ["combine", "lora", "lora"],
        ["convert", "lora", "--to", "peft"],
    ):
        output = ["-o", f"{command[0]} out"]
        assert run(*command, *output).code == 0
        assert refused(run(*command, *output), 1, "use --overwrite to replace it")
        assert run(*command, *output, "--overwrite").code == 0


def test_a_method_of_full_rank_gets_a_rank(run: Run) -> None:
    command = ["combine", "lora", "lora", "--method", "ties", "-o", "out"]
    assert refused(run(*command), 2, "with --rank, --energy, --error or --size")
    assert run(*command, "--rank", 1).code == 0
    assert run(*command, "--energy", 0.5, "--overwrite").code == 0
