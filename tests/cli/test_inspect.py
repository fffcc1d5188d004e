"""`loratools inspect` as people and scripts call it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from loratools.cli import cli

FIXTURES = Path(__file__).parents[2] / "fixtures"
ADAPTERS = sorted((FIXTURES / "adapters").iterdir())


def run(*args):
    return CliRunner().invoke(cli, ["inspect", *map(str, args)], standalone_mode=False)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_every_adapter_is_described_within_80_columns(adapter, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run(adapter, "--spectrum")
    assert result.exception is None
    lines = result.stdout.splitlines()
    body = [line for line in lines[1:] if not line.startswith(("Note:", "Problem:"))]
    assert max(map(len, body)) <= 80
    assert lines[1].startswith("kind")


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_every_made_adapter_is_sound(adapter):
    result = run(adapter, "--check")
    assert result.return_value == 0, result.stdout


def test_check_exits_3_when_something_is_wrong():
    result = run(FIXTURES / "adapters/plain", "--check", "--base", FIXTURES / "tiny-gpt2")
    assert result.return_value == 3
    assert "would not merge" in result.stdout


def test_without_check_a_problem_does_not_fail():
    result = run(FIXTURES / "adapters/plain", "--base", FIXTURES / "tiny-gpt2")
    assert result.return_value == 0


def test_json_is_one_object_on_stdout():
    result = run(FIXTURES / "adapters/dora", "--json", "--spectrum")
    fields = json.loads(result.stdout)
    assert fields["kinds"] == ["DoRA"]
    assert len(fields["modules"]) == 16


def test_modules_shows_every_update():
    result = run(FIXTURES / "adapters/combine-r4", "--modules", "--spectrum")
    assert result.stdout.count("self_attn") == 2 + 10
    result = run(FIXTURES / "adapters/combine-r4", "--modules")
    assert result.stdout.count("layers.4.self_attn.v_proj") == 1


def test_a_pickle_is_read_only_when_that_is_allowed():
    folder = FIXTURES / "real/bloom560m-mergedlinear-bin"
    refused = run(folder)
    assert "--allow-pickle" in str(refused.exception)
    allowed = run(folder, "--allow-pickle")
    assert "3072×1024" in allowed.stdout


@pytest.mark.parametrize(
    ("slug", "reason"),
    [
        ("sam-vitb-lora-r2", "looks like a SAM LoRA"),
        ("sd15-cloneofsimo-disney-r1", "looks like a cloneofsimo LoRA"),
        ("not-an-adapter-smolvla-bin", "not an adapter of a known kind"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(slug, reason):
    result = run(FIXTURES / "real" / slug, "--allow-pickle")
    assert reason in str(result.exception)
