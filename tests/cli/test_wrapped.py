"""An adapter saved through wrappers: every verb that writes it says so, and writes none."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.e2e.commands import SMALL, run_here

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def wrapped(tmp_path: Path) -> Path:
    folder = tmp_path / "wrapped"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((SMALL / "adapter_config.json").read_bytes())
    tensors = load_file(SMALL / WEIGHTS)
    tensors = {key.replace(".layers.", "._orig_mod.layers."): t for key, t in tensors.items()}
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [["rescale", "--strength", "0.5"], ["resize", "--rank", "2"], ["combine", SMALL]],
    ids=["rescale", "resize", "combine"],
)
def test_verbs_that_write_adapters_say_that_wrappers_are_left_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrapped: Path, arguments: list[str | Path]
) -> None:
    verb, *rest = arguments
    result = run_here(capsys, verb, wrapped, *rest, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    assert "20 names are read without the wrappers" in result.err
    assert load_file(tmp_path / "out" / WEIGHTS).keys() == load_file(SMALL / WEIGHTS).keys()
