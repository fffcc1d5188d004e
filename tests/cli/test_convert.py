"""`loratools convert` and `loratools formats`: what they print, write and refuse."""

import json
from pathlib import Path

import pytest

import loratools
from loratools import formats
from loratools.describing.formats import all_formats
from tests.adapters import assert_same
from tests.cli.results import refused
from tests.e2e.commands import FIXTURES, PLAIN, run_here
from tests.narrowing import present

KOHYA = FIXTURES / "kohya" / "sd15-locon" / "sd15-locon.safetensors"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("adapter", "to", "out"), [(PLAIN, "peft", "x"), (KOHYA, "kohya", "x.safetensors")]
)
def test_an_adapter_in_that_format_already_is_written_anew_and_says_so(
    adapter: Path, to: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "convert", adapter, "-o", out, "--to", to)
    assert (result.code, "every update is exact" in result.out) == (0, True)
    assert f"in the {to} format already" in result.err
    assert_same(loratools.open_adapter(adapter), loratools.open_adapter(out))


def test_an_output_is_what_the_format_has(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "convert", PLAIN, "-o", "x.safetensors", "--to", "peft")
    assert refused(result, 1, "a folder, with a config; name a folder")
    assert refused(run_here(capsys, "convert", KOHYA, "-o", "x", "--to", "kohya"), 1, "one file")
    assert [*workplace.iterdir()] == []


def test_a_format_that_is_not_written_is_refused_with_those_that_are(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(run_here(capsys, "convert", PLAIN, "-o", "x", "--to", "sam"), 2, "'peft'")
    with pytest.raises(loratools.OptionError, match=r"'sam' is no format that is written: .*peft"):
        loratools.convert(PLAIN, output="x", to="sam")
    with pytest.raises(loratools.OptionError, match="'int8' is no dtype of an adapter: float16"):
        loratools.convert(PLAIN, output="x", to="peft", dtype="int8")
    assert [*workplace.iterdir()] == []


def test_what_a_format_cannot_hold_is_named_and_can_be_dropped(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(capsys, "convert", KOHYA, "-o", "x", "--to", "peft")
    assert refused(result, 1, "cannot hold any of the 26 targets: .* and 23 more: one of 2 models")
    assert [*workplace.iterdir()] == []
    result = run_here(capsys, "convert", KOHYA, "-o", "x", "--to", "peft", "--drop", "lora_te_*")
    assert (result.code, "every update is exact" in result.out) == (0, True)
    assert "left out by --drop: lora_te_text_model_encoder_layers_0_mlp_fc1.weight" in result.out
    assert all(
        name.startswith(("down", "up", "mid")) for name in loratools.open_adapter("x").updates
    )


def test_a_glob_of_what_to_drop_that_matches_nothing_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = run_here(capsys, "convert", PLAIN, "-o", "x", "--to", "peft", "--drop", "q_proj")
    assert refused(result, 1, r"--drop 'q_proj' matches no target; did you mean '\*.q_proj'")
    result = run_here(capsys, "convert", PLAIN, "-o", "x", "--to", "peft", "--drop", "*")
    assert refused(result, 1, "--drop leaves nothing to convert")


def test_a_dry_run_compares_what_it_would_write(workplace: Path) -> None:
    dry = loratools.convert(PLAIN, output=None, to="peft", dtype="bfloat16")
    wet = loratools.convert(PLAIN, output="x", to="peft", dtype="bfloat16")
    assert dry.comparison == wet.comparison
    assert 0 < present(dry.comparison.worst)[1] < 2.0**-8
    assert (dry.written, present(wet.written).path) == (None, "x")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_all_tensors_but_alphas_get_the_dtype(dtype: str) -> None:
    loratools.convert(KOHYA, output="x.safetensors", to="kohya", dtype=dtype)
    before, after = loratools.open_adapter(KOHYA), loratools.open_adapter("x.safetensors")
    for target, update in after.updates.items():
        assert {str(source.read().dtype) for source in update.delta.sources} == {f"torch.{dtype}"}
        alphas = [
            present(present(u.delta.scaling).source) for u in (update, before.updates[target])
        ]
        assert alphas[0].dtype == alphas[1].dtype
        assert alphas[0].read() == alphas[1].read()


def test_formats_are_listed_as_they_say_of_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {row.name: row for row in all_formats().rows}
    text = run_here(capsys, "formats").out
    found = json.loads(run_here(capsys, "formats", "--json").out)["formats"]
    assert [row["name"] for row in found] == list(listed)
    for dialect in formats.dialects():
        row = listed[dialect.name]
        assert row.reads, "a dialect says which kinds it reads"
        assert row.writes == () or formats.can_write(dialect)
        assert set(row.writes) <= set(row.reads)
        assert row.merges is (dialect.name != "control_lora"), "a ControlNet has no base"
        assert f"\n{dialect.name} " in text
