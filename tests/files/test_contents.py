"""A folder without weights is answered by what it holds."""

import shutil
from pathlib import Path

import pytest

import loratools
from loratools.errors import FormatError
from tests.e2e.commands import SINGLE, SMALL

HELD = {
    ("train.parquet", "README.md"): "a dataset (train.parquet)",
    ("data.arrow",): "a dataset (data.arrow)",
    ("1.png", "1.txt"): "pictures (1.png)",
    ("model.onnx",): "it has model.onnx",
    (): "it has no files",
}
TRAINING = ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin")


def folder(path: Path, *files: str) -> Path:
    path.mkdir()
    for file in files:
        (path / file).touch()
    return path


@pytest.mark.parametrize("files", HELD)
def test_a_folder_without_weights_is_answered_by_what_it_holds(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    made = folder(tmp_path / "x", *files)
    with pytest.raises(FormatError) as caught:
        loratools.open_adapter(made)
    assert f"{HELD[files]}; name the folder or the file of an adapter" in str(caught.value)
    with pytest.raises(FormatError) as caught:
        loratools.merge(made, SMALL, output=None)
    assert f"{HELD[files]}; name the folder or the file of a model" in str(caught.value)


def test_the_state_of_a_training_is_no_adapter(tmp_path: Path) -> None:
    made = folder(tmp_path / "x", *TRAINING)
    with pytest.raises(FormatError, match=r"no adapter file .* the state of a training"):
        loratools.open_adapter(made)


def test_the_state_of_a_training_is_not_taken_for_the_adapter_beside_it(tmp_path: Path) -> None:
    made = folder(tmp_path / "x", *TRAINING, "._style.safetensors")
    shutil.copy(SMALL / "adapter_model.safetensors", made / "scheduler-style.safetensors")
    opened = loratools.open_adapter(made, config=SMALL / "adapter_config.json")
    assert [*opened] == [*loratools.open_adapter(SMALL)]


@pytest.mark.parametrize("original", [SINGLE, SMALL], ids=["base", "adapter"])
def test_the_files_that_macos_makes_beside_others_are_not_read(
    tmp_path: Path, original: Path
) -> None:
    made = tmp_path / "copied"
    shutil.copytree(original, made)
    for file in [*made.iterdir()]:
        (made / f"._{file.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (made / "._other.safetensors").write_bytes(b"\0\5\x16\7Mac OS X")
    base, adapter = (made, SMALL) if original == SINGLE else (SINGLE, made)
    report = loratools.merge(base, adapter, output=tmp_path / "merged")
    assert not [word for word in (*report.left_out, *report.notes) if "._" in word]
    assert not [*(tmp_path / "merged").rglob("._*")]
    assert loratools.open_adapter(adapter).beside == ()


def test_a_folder_of_models_names_them(tmp_path: Path) -> None:
    shutil.copytree(SINGLE, tmp_path / "models/one")
    with pytest.raises(FormatError, match=r"name the folder of a model in it: .*models/one$"):
        loratools.merge(tmp_path / "models", SMALL, output=None)


def test_a_config_without_its_weights_is_answered_by_what_to_download(tmp_path: Path) -> None:
    made = folder(tmp_path / "x", "config.json", "adapter_config.json")
    with pytest.raises(FormatError, match=r"adapter_config\.json without the weights; download"):
        loratools.open_adapter(made)
    with pytest.raises(FormatError, match=r"it has config\.json without the weights; download"):
        loratools.merge(made, SMALL, output=None)
