"""`loratools swap`, and `merge --in-place`, which is the same for a model with no adapter in it."""

import json
import re
from pathlib import Path

import pytest

import loratools
from tests.cli.results import refused
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SMALL, digests, run_here
from tests.swapping.models import contents, merged_contents
from tests.test_docs import assert_documented
from tests.verbs import own

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return own(SHARDED, tmp_path / "model")


def test_adapters_go_in_by_their_weights_and_out_again(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    result = run_here(capsys, "swap", model, "--in", PLAIN, "--in", SMALL, "-w", 1, "-w", -2)
    assert result.code == 0
    assert f"in: {PLAIN} + {SMALL} × -2" in result.out
    loratools.merge(SHARDED, [PLAIN, SMALL], weights=[1, -2], output=tmp_path / "merged")
    weights = {n: d for n, d in digests(tmp_path / "merged").items() if "safetensors" in n}
    assert weights.items() <= contents(model).items()
    assert run_here(capsys, "swap", model).out.splitlines()[0] == f"in: {PLAIN} + {SMALL} × -2"
    assert "each byte is as it was" in run_here(capsys, "swap", model, "--out").out
    assert digests(model) == digests(SHARDED)
    for option in ((), ("--out",)):
        said = "no adapter is in that swap or merge --in-place put there"
        assert run_here(capsys, "swap", model, *option).out == f"{model}: {said}\n"


def test_a_base_with_adapters_in_it_is_said_to_have_them(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["merge", model, SMALL, "--dry-run"]
    for put_in in ([PLAIN], [PLAIN, SMALL]):
        run_here(capsys, "swap", model, *(part for each in put_in for part in ("--in", each)))
        said = f"Note: {model}: {', '.join(map(str, put_in))} {'is' if len(put_in) == 1 else 'are'}"
        assert (
            f"{said} in it; loratools swap {model} --out takes " in run_here(capsys, *command).err
        )
    run_here(capsys, "swap", model, "--out")
    assert "in it; " not in run_here(capsys, *command).err


def test_what_is_asked_for_must_make_sense(model: Path, capsys: Capture) -> None:
    for options in (
        ["--in", PLAIN, "--out"],
        ["--in", PLAIN, "-w", 1, "-w", 2],
        ["--out", "-w", 1],
        ["-w", 1],
    ):
        assert refused(run_here(capsys, "swap", model, *options), 2, r"--in|-w"), options
    assert digests(model) == digests(SHARDED)


def test_verbose_shows_each_weight_and_a_dry_run_too(model: Path, capsys: Capture) -> None:
    for option in ("--dry-run", "-v"):
        out = run_here(capsys, "swap", model, "--in", SMALL, option).out
        assert re.search(r"^model\.layers\.0\.self_attn\.q_proj\.weight  +LoRA", out, re.MULTILINE)
        assert ("dry run: nothing written (10 tensors" in out) == (option == "--dry-run")


def test_merge_in_place_is_a_swap_into_a_model_that_has_none(
    model: Path, tmp_path: Path, capsys: Capture
) -> None:
    result = run_here(capsys, "merge", "--in-place", model, PLAIN)
    assert result.code == 0, result.err
    assert contents(model) == merged_contents(SHARDED, [PLAIN], tmp_path / "merged")
    before = digests(model)
    again = run_here(capsys, "merge", "--in-place", model, SMALL)
    assert refused(again, 1, "is in it; loratools swap --in puts others in its place")
    assert digests(model) == before


@pytest.mark.parametrize(
    "option",
    [
        ("-o", "out"),
        ("--dtype", "float32"),
        ("--max-shard-size", "1MB"),
        ("--only-changed",),
        ("--overwrite",),
    ],
    ids=" ".join,
)
def test_merge_in_place_takes_no_option_of_an_output(
    model: Path, capsys: Capture, option: tuple[str, ...]
) -> None:
    result = run_here(capsys, "merge", "--in-place", model, SMALL, *option)
    assert refused(result, 2, "--in-place keeps the files of BASE")
    assert digests(model) == digests(SHARDED)
    assert refused(run_here(capsys, "merge", "--in-place", model), 2, "ADAPTER")


def test_fields_of_swap_json_are_the_documented_ones(model: Path, capsys: Capture) -> None:
    printed = [
        run_here(capsys, "merge", "--in-place", model, PLAIN, "--json"),
        run_here(capsys, "swap", model, "--in", SMALL, "--json"),
        run_here(capsys, "swap", model, "--json", "--dry-run"),
        run_here(capsys, "swap", model, "--out", "--json"),
    ]
    reports = [json.loads(result.out) for result in printed]
    assert_documented(reports, "swap --json")
    put, swapped, looked, out = reports
    assert [len(report["adapters"]) for report in reports] == [1, 1, 1, 0]
    assert [len(report["before"]) for report in reports] == [0, 1, 1, 1]
    assert put["merge"]["accounting"]["applied"] == 70
    assert (looked["merge"], out["merge"]) == (None, None)
    assert looked["originals_bytes"] == swapped["originals_bytes"] == put["originals_bytes"] > 0
    assert (looked["tensors_rewritten"], out["originals_bytes"]) == (0, 0)


def test_an_update_that_is_lost_is_not_advised_a_dtype_that_a_swap_cannot_write(
    model: Path, capsys: Capture
) -> None:
    err = run_here(capsys, "swap", model, "--in", FIXTURES / "adapters/combine-r4").err
    assert "is lost to rounding" in err
    assert "--rounding stochastic" in err
    assert "--dtype" not in err


@pytest.mark.parametrize("option", ["--only", "--skip"])
def test_a_choice_of_weights_is_for_adapters_that_are_put_in(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    says = f"{option} is for adapters that are put in; give --in"
    assert refused(run_here(capsys, "swap", SHARDED, option, "*"), 2, says)
    assert refused(run_here(capsys, "swap", SHARDED, "--out", option, "*"), 2, says)
