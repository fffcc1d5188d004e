"""`loratools inspect` as people and scripts call it."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from loratools.cli import cli
from loratools.typed import on_command_line

FIXTURES = Path(__file__).parents[2] / "fixtures"
ADAPTERS = sorted([*(FIXTURES / "adapters").iterdir(), *(FIXTURES / "kohya").iterdir()])


def run(*args: Path | str) -> Result:
    with on_command_line():
        return CliRunner().invoke(cli, ["inspect", *map(str, args)], standalone_mode=False)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_every_adapter_is_described_within_80_columns(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run(adapter, "--spectrum")
    assert result.exception is None
    lines = result.stdout.splitlines()
    body = [line for line in lines[1:] if not line.startswith(("Note:", "Problem:"))]
    assert max(map(len, body)) <= 80
    assert lines[1].startswith("kind")


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.name)
def test_every_made_adapter_is_sound(adapter: Path) -> None:
    result = run(adapter, "--check")
    assert result.return_value == 0, result.stdout


def test_check_exits_3_when_something_is_wrong() -> None:
    result = run(FIXTURES / "adapters/plain", "--check", "--base", FIXTURES / "tiny-gpt2")
    assert result.return_value == 3
    assert "would not merge" in result.stdout


def test_without_check_a_problem_does_not_fail() -> None:
    result = run(FIXTURES / "adapters/plain", "--base", FIXTURES / "tiny-gpt2")
    assert result.return_value == 0


def test_json_is_one_object_on_stdout() -> None:
    result = run(FIXTURES / "adapters/dora", "--json", "--spectrum")
    fields = json.loads(result.stdout)
    assert fields["kinds"] == ["DoRA"]
    assert len(fields["modules"]) == 16


def test_modules_shows_every_update() -> None:
    result = run(FIXTURES / "adapters/combine-r4", "--modules", "--spectrum")
    assert result.stdout.count("self_attn") == 10 + 10
    result = run(FIXTURES / "adapters/combine-r4", "--modules")
    assert result.stdout.count("layers.4.self_attn.v_proj") == 1


def test_a_pickle_is_read_only_when_that_is_allowed() -> None:
    folder = FIXTURES / "real/bloom560m-mergedlinear-bin"
    refused = run(folder)
    assert "--allow-pickle" in str(refused.exception)
    allowed = run(folder, "--allow-pickle")
    assert "3072×1024" in allowed.stdout


@pytest.mark.parametrize(
    ("slug", "reason"),
    [
        ("not-an-adapter-smolvla-bin", "not an adapter but the settings of LoRA layers"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(slug: str, reason: str) -> None:
    result = run(FIXTURES / "real" / slug, "--allow-pickle")
    assert reason in str(result.exception)


def test_flattened_names_are_grouped_by_the_numbers_between_underscores() -> None:
    shown = run(FIXTURES / "kohya/sd15-locon").stdout
    assert re.search(r"\nlora_unet_down_blocks_\*_attentions_\*_proj_in +2 +32×32×1×1 +4 ", shown)
    assert "\nbase        v1-5-pruned-emaonly.safetensors (Stable Diffusion 1 or 2)\n" in shown


def test_metadata_is_shown_in_part_and_settings_first(tmp_path: Path) -> None:
    metadata = {f"ss_{number}": "x" * 1000 for number in range(30)} | {"ss_network_dim": "2"}
    tensors = {"lora_unet_a.lora_down.weight": torch.ones(2, 3).half(),
               "lora_unet_a.lora_up.weight": torch.ones(4, 2).half()}  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    shown = run(tmp_path / "a.safetensors").stdout
    assert "metadata    ss_network_dim=2" in shown
    assert "and 19 more" in shown
    assert len(shown) < 3000


def test_tensors_stored_whole_whose_names_differ_in_numbers_are_one_entry(tmp_path: Path) -> None:
    tensors = {f"double_blocks.{n}.img_attn.norm.key_norm.scale": torch.ones(3) for n in range(40)}
    tensors |= {"final_layer.norm.key_norm.scale": torch.ones(2)}
    tensors |= {"img_in.lora_A.weight": torch.ones(1, 64), "img_in.lora_B.weight": torch.ones(2, 1)}
    save_file(tensors, tmp_path / "many.safetensors")
    words = " ".join(run(tmp_path / "many.safetensors").output.split())
    assert "40 double_blocks.*.img_attn.norm.key_norm.scale [3], final_layer.norm" in words
