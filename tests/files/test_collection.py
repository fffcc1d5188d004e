"""What is in a folder of adapters: all of it, each thing by what its name says."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from loratools.files.collection import contents, is_collection, natural
from loratools.io.folder import LocalFolder


def folder(path: Path, files: Iterable[str]) -> LocalFolder:
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return LocalFolder(path, str(path))


def listed(path: Path, files: Iterable[str], **options: bool) -> dict[str, str]:
    """What there is, and what each is called that need not be opened."""
    items = contents(folder(path, files), **options)
    return {item.name: "" if item.other is None else item.other.name for item in items}


def test_every_file_is_an_item_and_named_for_what_it_is(tmp_path: Path) -> None:
    assert listed(
        tmp_path,
        ["a.safetensors", "a.png", "A.JPG", "b.civitai.info", "notes.txt", "c.pt", "d.ckpt",
         "e.gguf", "f.onnx", ".DS_Store", "noend", "g.safetensors.part", "h.npz",
         "._a.safetensors", "i.SFT"],
    ) == {
        "._a.safetensors": "hidden",
        ".DS_Store": "hidden", "A.JPG": "an image", "a.png": "an image", "a.safetensors": "",
        "b.civitai.info": "JSON", "c.pt": "a pickle", "d.ckpt": "a pickle", "e.gguf": "a GGUF file",
        "f.onnx": "weights for other programs", "g.safetensors.part": "an unfinished download",
        "h.npz": "", "i.SFT": "", "noend": "of an unknown kind", "notes.txt": "text",
    }  # fmt: skip


def test_items_are_sorted_as_people_count() -> None:
    assert sorted(["x10", "X9", "x-1.5", "b", "x1", ""], key=natural) == [
        "", "b", "x1", "X9", "x10", "x-1.5",
    ]  # fmt: skip


def test_an_adapter_in_its_folder_is_one_item_with_all_that_is_in_it(tmp_path: Path) -> None:
    files = ["run/adapter_config.json", "run/adapter_model.safetensors", "run/README.md",
             "old/pytorch_lora_weights.safetensors", "old/x.png",
             "parts/adapter_model-00001-of-00002.safetensors"]  # fmt: skip
    assert listed(tmp_path, files) == {"old": "", "parts": "", "run": ""}


def test_a_model_in_its_folder_is_named_and_not_entered(tmp_path: Path) -> None:
    files = ["base/config.json", "base/model-00001-of-00002.safetensors", "base/x/y.safetensors",
             "pipe/model_index.json", "pipe/unet/diffusion_pytorch_model.safetensors",
             "small/overlay.json", "small/a.safetensors",
             "bin/config.json", "bin/pytorch_model.bin"]  # fmt: skip
    expected = {"base": "a model", "bin": "a model", "pipe": "a pipeline of diffusers",
                "small": "an overlay of a base"}  # fmt: skip
    assert listed(tmp_path, files) == listed(tmp_path, files, recursive=True) == expected


def test_a_config_alone_makes_no_model_of_a_folder(tmp_path: Path) -> None:
    """Some put a `config.json` beside their LoRAs so that the Hub counts downloads."""
    files = ["x/config.json", "x/a.safetensors", "x/b.safetensors"]
    assert set(listed(tmp_path, files)) == set(files)


def test_folders_further_down_are_named_or_with_recursive_entered(tmp_path: Path) -> None:
    files = ["sdxl/a.safetensors", "sdxl/people/b.safetensors", "sdxl/people/c/d.safetensors"]
    assert listed(tmp_path, files) == {"sdxl/a.safetensors": "", "sdxl/people": "a folder"}
    (tmp_path / "sdxl/empty").mkdir()
    assert listed(tmp_path, files, recursive=True) == dict.fromkeys(files, "")


def test_with_recursive_adapters_inside_of_adapters_are_items(tmp_path: Path) -> None:
    files = [f"{at}adapter_config.json" for at in ("", "checkpoint-20/", "checkpoint-100/")]
    assert [*listed(tmp_path, files, recursive=True)] == [".", "checkpoint-20", "checkpoint-100"]
    assert listed(tmp_path, files) == {".": ""}


def test_links_to_folders_are_followed_to_adapters_only(tmp_path: Path) -> None:
    folder(
        tmp_path / "else",
        ["plain/adapter_config.json", "plain/x/adapter_config.json", "loose/a.safetensors"],
    )
    here = tmp_path / "here"
    here.mkdir()
    for name in ("plain", "loose"):
        (here / name).symlink_to(tmp_path / "else" / name)
    (here / "around").symlink_to(here)
    expected = {"around": "a link", "loose": "a link", "plain": ""}
    assert listed(here, []) == listed(here, [], recursive=True) == expected


def test_parts_belong_to_their_index(tmp_path: Path) -> None:
    files = ["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors",
             "a.safetensors.index.json", "b-00001-of-00002.safetensors"]  # fmt: skip
    assert listed(tmp_path, files) == {
        "a.safetensors.index.json": "", "b-00001-of-00002.safetensors": "",
    }  # fmt: skip


def test_pickles_are_opened_if_that_is_allowed_or_an_adapter_has_such_a_name(
    tmp_path: Path,
) -> None:
    files = ["a.pt", "b.ckpt", "run/adapter_model.bin"]
    assert listed(tmp_path, files) == {"a.pt": "a pickle", "b.ckpt": "a pickle", "run": ""}
    assert listed(tmp_path, files, allow_pickle=True) == {
        "a.pt": "",
        "b.ckpt": "a pickle",
        "run": "",
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.safetensors", "b.safetensors"], True),
        (["a.safetensors", "a.png", "a.pt", "notes/x.txt"], False),  # one adapter, as ever
        (["a.safetensors", "x/b.safetensors"], True),
        (["x/adapter_config.json"], True),
        (["adapter_config.json", "a.safetensors", "checkpoint-1/adapter_config.json"], False),
        (["config.json", "model.safetensors", "lora/adapter_config.json"], False),
        (["notes.txt", "x.pt"], False),
        (["x.pt", "y.pt"], True),
        (["A.SAFETENSORS", "a.png"], True),  # which is not found as the folder's one adapter
        (["a.sft"], True),
        (["a.safetensors", "y.pt"], True),
        (["a.safetensors", "training_args.bin"], False),
        (["pytorch_lora_weights.safetensors", "y.bin"], False),  # another part of it, perhaps
        (["pytorch_lora_weights.safetensors", "b.safetensors"], True),
        (["pytorch_lora_weights.safetensors", "optimizer.bin", "x.png"], False),
        (["adapters.safetensors", "0000100_adapters.safetensors"], False),
        ([], False),
    ],
)  # fmt: skip
def test_a_folder_is_a_collection_if_it_is_not_one_adapter_or_a_model(
    tmp_path: Path, files: list[str], expected: bool
) -> None:
    assert is_collection(folder(tmp_path, files)) is expected


def test_a_folder_that_may_not_be_read_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["a/x.safetensors", "b/y.safetensors"]
    here = folder(tmp_path, files)

    def names(self: LocalFolder) -> tuple[str, ...]:
        if self.path.name == "a":
            raise PermissionError
        return real(self)

    real = LocalFolder.names
    monkeypatch.setattr(LocalFolder, "names", names)
    assert [item.name for item in contents(here)] == ["a", "b/y.safetensors"]
