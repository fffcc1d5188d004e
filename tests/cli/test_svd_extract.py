"""`loratools svd-extract` as people and scripts call it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import loratools
from loratools.cli import cli
from loratools.errors import OptionError
from loratools.extracting import check as extract_check

FIXTURES = Path(__file__).parents[2] / "fixtures"
BASE = FIXTURES / "stories260k"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "model"
    loratools.merge(BASE, FIXTURES / "adapters/combine-r4", output=folder)
    return folder


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["svd-extract", *map(str, args)], standalone_mode=False)


def test_an_adapter_is_written_and_described(tuned: Path, tmp_path: Path) -> None:
    result = run(tuned, BASE, "-o", tmp_path / "out", "--rank", 4, "--check", "--modules")
    assert result.return_value == 0, result.output
    assert "10 matrices of low rank, 0 tensors whole, 0 changes left out" in result.stdout
    assert "as certified" in result.stdout
    assert "model.layers.4.self_attn.v_proj.weight" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("written: ")
    fields = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str(BASE)
    assert fields["task_type"] == "CAUSAL_LM"
    assert (tmp_path / "out/tokenizer.json").exists()


def test_json_is_one_object_on_stdout(tuned: Path, tmp_path: Path) -> None:
    result = run(
        tuned, BASE, "-o", tmp_path / "out", "--size", "30kB", "--json", "--base-name", "me/base"
    )
    fields = json.loads(result.stdout)
    assert len(fields["targets"]) == 10
    assert (tmp_path / "out/adapter_model.safetensors").stat().st_size <= 30_000
    assert 0.9 < fields["total"]["energy"] <= 1
    assert fields["check"] is None
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/base"


def test_dry_run_writes_nothing(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(tuned, BASE, "--dry-run", "--energy", 0.9)
    assert result.return_value == 0
    assert "10 matrices to factor" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_disagrees_exits_3(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_check, "_rounding", lambda *_: -1.0)
    result = run(tuned, BASE, "-o", tmp_path / "out", "--rank", 1, "--check")
    assert result.return_value == 3
    assert "was certified" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "4"], "Missing option"),
        (["-o", "out"], "how many ranks"),
        (
            ["-o", "out", "--rank", "4", "--device", "here"],
            "Device 'here' cannot be used",
        ),
        (["-o", "out", "--rank", "4", "--device", "meta"], "Device 'meta' cannot be used"),
    ],
)
def test_usage_errors(
    tuned: Path, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["svd-extract", str(tuned), str(BASE), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", " "])
def test_a_base_name_is_not_empty(tuned: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the name of the base is empty"):
        loratools.svd_extract(tuned, BASE, output=tmp_path / "out", rank=1, base_name=name)
    assert list(tmp_path.iterdir()) == []
