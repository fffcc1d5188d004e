"""`loratools inspect` of several adapters, and of folders of them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.results import refused
from tests.e2e.commands import FIXTURES, Result, run_here
from tests.merged import pair, write_adapter

ADAPTERS, KOHYA = FIXTURES / "adapters", FIXTURES / "kohya/sd15-locon/sd15-locon.safetensors"
PLAIN, DORA = ADAPTERS / "plain", ADAPTERS / "dora"


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """An image maker's folder: two LoRAs, a checkpoint, previews and notes."""
    folder = tmp_path / "loras"
    folder.mkdir()
    for name in ("style-2", "style-10"):
        shutil.copy(KOHYA, folder / f"{name}.safetensors")
        (folder / f"{name}.png").touch()
    save_file({"model.diffusion_model.a": torch.ones(1)}, folder / "sd.safetensors")
    (folder / "notes.txt").touch()
    return folder


def run(capsys: pytest.CaptureFixture[str], *args: object) -> Result:
    return run_here(capsys, "inspect", *args)


def test_a_folder_of_adapters_is_one_table(
    capsys: pytest.CaptureFixture[str], loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = run(capsys, loras)
    assert result.code == 0
    assert result.err == ""
    rows = [line.split() for line in result.out.splitlines()[1:4]]
    assert [(row[0], row[-1]) for row in rows] == [
        ("sd.safetensors", "adapter"), ("style-2.safetensors", "ok"),
        ("style-10.safetensors", "ok"),
    ]  # fmt: skip
    assert "Not adapters, images (2): style-2.png, style-10.png\n" in result.out
    assert "Not adapters, text (1): notes.txt\n" in result.out
    assert "\nok: 2, no adapter: 1; " in result.out


def test_several_names_are_rows_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, DORA, PLAIN, "--json")
    assert [row["path"] for row in json.loads(result.out)] == [str(DORA), str(PLAIN)]


def test_json_of_one_adapter_is_an_object_and_with_list_an_array(
    capsys: pytest.CaptureFixture[str], loras: Path, tmp_path: Path
) -> None:
    assert json.loads(run(capsys, PLAIN, "--json").out)["path"] == str(PLAIN)
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(KOHYA, only)
    assert isinstance(json.loads(run(capsys, only, "--json").out), dict)
    (row,) = json.loads(run(capsys, only, "--json", "--list").out)
    assert row["path"] == str(only)
    assert len(json.loads(run(capsys, loras, "--json").out)) == 6
    assert len(json.loads(run(capsys, PLAIN, "--json", "--recursive").out)) == 1


def test_check_of_several_exits_with_3_if_one_is_unsound(
    capsys: pytest.CaptureFixture[str], loras: Path
) -> None:
    assert run(capsys, loras, "--check").code == 0
    zero = {name: 0 * tensor for name, tensor in pair("m.a", 4, 3).items()}
    write_adapter(loras / "untrained", zero)
    assert run(capsys, loras).code == 0
    result = run(capsys, loras, "--check")
    assert (result.code, result.err) == (3, "")
    assert "Problem: untrained: no update changes anything" in result.out
    assert "ok: 2, problem: 1, no adapter: 1\n" in result.out


def test_a_broken_file_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], loras: Path
) -> None:
    (loras / "cut.safetensors").write_bytes(KOHYA.read_bytes()[:999])
    (loras / "notes.json").write_text("{}")  # which has no row of the table, and is not counted
    result = run(capsys, loras)
    assert result.code == 1
    assert result.err == "Error: 1 of 4 cannot be read: cut.safetensors\n"
    assert f"Unreadable: {loras / 'cut.safetensors'}: the file is truncated" in result.out
    assert "ok: 2, no adapter: 1, unreadable: 1" in result.out
    # As a result of the check it has a code of its own.
    assert (run(capsys, loras, "--check").code, run(capsys, loras, "--check").err) == (3, "")
    rows = json.loads(run(capsys, loras, "--json").out)
    assert [row["verdict"] for row in rows].count("ok") == 2


def test_a_file_that_may_be_read_later_makes_the_code_4(
    capsys: pytest.CaptureFixture[str], loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loratools.errors import StorageError
    from loratools.io.file import InputFile

    def failing(self: InputFile, buffer: memoryview, offset: int) -> None:
        raise StorageError(f"{self.path}: input/output error")

    monkeypatch.setattr(InputFile, "read_into", failing)
    assert run(capsys, loras).code == run(capsys, loras, "--check").code == 4


def test_what_a_base_refuses_of_several_alike_is_said_once_whatever_their_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = [tmp_path / name for name in ("style.safetensors", "tab\tname.safetensors")]
    for name in names:
        shutil.copy(KOHYA, name)
    result = run(capsys, tmp_path, "--base", FIXTURES / "stories260k")
    (refusal,) = (line for line in result.out.splitlines() if line.startswith("Refused: "))
    assert refusal.startswith(
        r"Refused: style.safetensors, tab\tname.safetensors: would not merge: "
    )
    assert str(tmp_path) not in refusal


def test_a_base_gives_each_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    names = (PLAIN, ADAPTERS / "gpt2-conv1d")
    result = run(capsys, *names, "--base", FIXTURES / "stories260k")
    assert result.code == 0
    assert "fits: 1, does not fit: 1" in result.out
    (refusal,) = (line for line in result.out.splitlines() if line.startswith("Refused: "))
    would_not = "would not merge: none of its updates has a place in "
    assert refusal.startswith(f"Refused: {names[1]}: {would_not}")
    assert run(capsys, *names, "--base", FIXTURES / "stories260k", "--check").code == 3


@pytest.mark.parametrize("option", ["--spectrum", "--blocks", "--modules"])
def test_what_is_shown_of_one_adapter_alone_is_refused_of_several_but_in_json(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert refused(
        run(capsys, PLAIN, DORA, option),
        2,
        f"{option}: shown of one adapter; name one alone, or add --json",
    )
    rows = json.loads(run(capsys, PLAIN, DORA, option, "--json").out)
    assert [row["modules"] is not None for row in rows] == [option == "--spectrum"] * 2


def test_one_config_is_not_for_several(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, PLAIN, DORA, "--config", PLAIN / "adapter_config.json")
    assert refused(result, 2, "--config is the config of one adapter")


def test_the_same_problem_of_many_is_said_once_with_their_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for number in range(8):
        folder = write_adapter(tmp_path / str(number), pair("model.layers.0.q_proj", 4, 3))
        (folder / "adapter_config.json").unlink()
    out = run(capsys, tmp_path).out
    (line,) = [line for line in out.splitlines() if line.startswith("Problem: ")]
    assert line.startswith("Problem: 0, 1, 2, 3, 4 and 3 more: no adapter_config.json")


def test_pickles_are_named_and_read_if_that_is_allowed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(FIXTURES / "real/bloom560m-mergedlinear-bin", tmp_path / "bloom")
    torch.save({"emb_params": torch.ones(1, 8)}, tmp_path / "embedding.pt")
    result = run(capsys, tmp_path)
    assert result.code == 1
    assert "Note: embedding.pt: not read, as a pickle can run code; --allow-pickle" in result.out
    assert "Unreadable: " in result.out
    allowed = run(capsys, tmp_path, "--allow-pickle")
    assert allowed.code == 0
    assert "ok: 1, no adapter: 1" in allowed.out
    assert "a textual" in allowed.out


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_the_table_fits_at_any_width(
    capsys: pytest.CaptureFixture[str], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = run(capsys, ADAPTERS).out.splitlines()
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= int(columns)
    assert len(table) > len([*ADAPTERS.iterdir()])


def test_several_are_inspected_without_torch(loras: Path) -> None:
    program = f"""
import sys
from loratools.cli import cli
cli.main(["inspect", {str(loras)!r}, {str(PLAIN)!r}], standalone_mode=False)
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
