"""`--variant` chooses between copies of a model's weights in every command that reads one."""

from pathlib import Path

import pytest

import loratools
from tests.cli.results import refused
from tests.e2e.commands import SHARDED, SINGLE, run_here
from tests.pipelines import ADAPTER, write_lora, write_pipeline

UNET = ("--only", "unet.*")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a pipeline in two variants, an adapter of it, and the two merged."""
    monkeypatch.chdir(tmp_path)
    write_pipeline(tmp_path / "base", variants=("", "fp16"))
    write_lora(tmp_path / ADAPTER)
    loratools.merge("base", ADAPTER, output="tuned", variant="fp16")


@pytest.mark.parametrize(
    "command",
    [
        ("merge", "base", ADAPTER, "-o", "out"),
        ("merge", "base/unet", ADAPTER, *UNET, "--in-place"),
        ("swap", "base/unet", "--in", ADAPTER, *UNET),
        ("inspect", ADAPTER, "--base", "base"),
        ("svd-extract", "tuned", "base", "--rank", "2", "-o", "out"),
        ("convert", ADAPTER, "--to", "diffusers", "--base", "base", "-o", "out"),
        ("rescale", ADAPTER, "--strength", "2", "--base", "base", "-o", "out"),
        ("combine", ADAPTER, ADAPTER, "--base", "base", "-o", "out"),
        ("push", "base", "ann/pipeline", "--dry-run"),
    ],
    ids=lambda command: " ".join(command[:1]),
)
def test_each_command_asks_for_one_and_takes_it(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(run_here(capsys, *command), 1, "choose with --variant")
    if command[0] != "push":  # which sends all or nothing: see the tests of the Hub
        assert run_here(capsys, *command, "--variant", "fp16").code == 0


def test_the_only_variant_that_was_read_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    note = "files of the variant fp16: text_encoder, unet, vae"
    merged = run_here(capsys, "merge", "tuned", ADAPTER, "-o", "out")
    inspected = run_here(capsys, "inspect", ADAPTER, "--base", "tuned")
    extracted = run_here(capsys, "svd-extract", "out", "tuned", "--rank", "2", "--dry-run")
    for result in (merged, inspected, extracted):
        assert note in result.out + result.err


@pytest.mark.parametrize("base", ["base", "base/unet", SINGLE, SHARDED], ids=str)
def test_a_variant_that_a_model_does_not_have_is_refused(
    base: str | Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is read in its place would be merged into without a word."""
    result = run_here(capsys, "merge", base, ADAPTER, "--variant", "bf16", "--dry-run")
    assert refused(result, 1, "variant 'bf16'")
