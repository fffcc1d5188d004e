"""`--block-weights` of merge, swap and rescale, as people call them."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.results import refused
from tests.e2e.commands import PLAIN, SINGLE, SMALL, run_here

WEIGHTS = "model.safetensors"


def test_merge_takes_block_weights_for_each_adapter_in_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--block-weights", "B00=0,rest=0.5", "--block-weights", "ALL"]
    result = run_here(
        capsys, "merge", SINGLE, SMALL, PLAIN, *options, "-o", tmp_path / "out", "--json"
    )
    assert result.code == 0
    adapters = json.loads(result.out)["adapters"]
    assert [adapter["block_weights"]["B00"] for adapter in adapters] == [0, 1]
    assert adapters[0]["block_weights"]["B01"] == 0.5


def test_the_report_says_what_each_block_got(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_here(
        capsys, "merge", SINGLE, SMALL, "--block-weights", "B00-B02=0.5,B04=0", "--dry-run"
    )
    assert f"Note: {SMALL}: block weights: B00 to B02 0.5, B03 1, B04 0" in result.err
    assert "left out by block weights" in result.out
    assert "layers.1.self_attn.q_proj.weight  LoRA × 0.5\n" in result.out


@pytest.mark.parametrize("verb", ["merge", "swap"])
def test_block_weights_are_given_for_every_adapter_or_none(
    capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    adapters = [SMALL, PLAIN] if verb == "merge" else ["--in", SMALL, "--in", PLAIN]
    result = run_here(capsys, verb, SINGLE, *adapters, "--block-weights", "ALL", "--dry-run")
    assert result.code == 2
    assert (
        "1 block weight (--block-weights) for 2 adapters; give one for each, or none." in result.err
    )


def test_swap_and_merge_in_place_write_what_merge_writes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--block-weights", "B00=0.25,B03=0"]
    assert run_here(capsys, "merge", SINGLE, PLAIN, *options, "-o", tmp_path / "merged").code == 0
    expected = (tmp_path / "merged" / WEIGHTS).read_bytes()
    for number, command in enumerate((["swap", "--in", PLAIN], ["merge", PLAIN, "--in-place"])):
        model = shutil.copytree(SINGLE, tmp_path / f"own{number}")
        verb, *arguments = command
        result = run_here(capsys, verb, model, *arguments, *options)
        assert result.code == 0, result.err
        assert (model / WEIGHTS).read_bytes() == expected


def test_rescale_by_blocks_says_what_each_block_got(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--block-weights", "B00=0.5", "-o", tmp_path / "out"]
    result = run_here(capsys, "rescale", SMALL, *arguments)
    assert result.code == 0
    assert "Note: block weights: B00 0.5, B01 to B04 1" in result.err
    assert "× 0.5 to 1" in result.out


def test_weights_that_do_not_fit_the_adapter_leave_no_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--block-weights", "OUTD", "-o", tmp_path / "out"]
    for command in (["rescale", SMALL], ["merge", SINGLE, SMALL]):
        result = run_here(capsys, *command, *arguments)
        refused(result, 1, f"{SMALL}: block weights: the preset OUTD is not for the blocks")
        assert not (tmp_path / "out").exists()
