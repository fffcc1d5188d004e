"""A file that is not what its name says is called by what it is, wherever it is given."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import loratools
from loratools.errors import FormatError, LoratoolsError, UnsupportedError
from loratools.io.sniffed import SNIFFED_BYTES, sniffed
from tests.e2e.commands import FIXTURES, SINGLE, SMALL
from tests.sorts_of_files import SORTS

WEIGHTS = "adapter_model.safetensors"


def as_adapter(file: Path) -> None:
    loratools.open_adapter(file)


def in_adapter(file: Path) -> None:
    folder = Path(shutil.copytree(SMALL, file.with_name("adapter")))
    shutil.copy(file, folder / WEIGHTS)
    loratools.open_adapter(folder)


def as_base(file: Path) -> None:
    loratools.merge(file, SMALL, output=None)


def in_base(file: Path) -> None:
    folder = Path(shutil.copytree(SINGLE, file.with_name("base")))
    shutil.copy(file, folder / "model.safetensors")
    loratools.inspect(SMALL, base=folder)


def in_overlay(file: Path) -> None:
    overlay = file.with_name("overlay")
    loratools.merge(SINGLE, SMALL, output=overlay, write=loratools.WriteOptions(only_changed=True))
    (weights,) = overlay.glob("*.safetensors")
    shutil.copy(file, weights)
    loratools.merge(f"{SINGLE}+{overlay}", SMALL, output=None)


def as_overlay(file: Path) -> None:
    loratools.merge(f"{SINGLE}+{file}", SMALL, output=None)


def as_config(file: Path) -> None:
    loratools.open_adapter(SMALL, config=file)


def in_place_of_config(file: Path) -> None:
    folder = Path(shutil.copytree(SMALL, file.with_name("adapter")))
    shutil.copy(file, folder / "adapter_config.json")
    loratools.inspect(folder)


def as_pickle(file: Path) -> None:
    loratools.open_adapter(file.rename(file.with_suffix(".bin")), allow_pickle=True)


def as_refused_pickle(file: Path) -> None:
    loratools.open_adapter(file.rename(file.with_suffix(".pt")))


def as_base_pickle(file: Path) -> None:
    loratools.merge(file.rename(file.with_suffix(".ckpt")), SMALL, output=None)


def as_arrays(file: Path) -> None:
    loratools.open_adapter(file.rename(file.with_suffix(".npz")))


WEIGHTS_PLACES = [
    as_adapter, in_adapter, as_base, in_base, as_overlay, as_pickle, as_refused_pickle,
    as_base_pickle, as_arrays,
]  # fmt: skip
CONFIG_PLACES = [as_config, in_place_of_config]
#: What is read in a place, so that its message may be about something else.
READ: dict[Callable[[Path], None], tuple[str, ...]] = {
    as_pickle: ("torch.save", "torch.save of old", "a pickle of Python"),
    as_refused_pickle: ("torch.save", "torch.save of old", "a pickle of Python"),
    as_base_pickle: ("torch.save", "torch.save of old", "a pickle of Python"),
    as_arrays: ("numpy.savez",),
}
TEXTS = ("an answer in words",)


@pytest.mark.parametrize("place", [*WEIGHTS_PLACES, *CONFIG_PLACES])
@pytest.mark.parametrize("sort", SORTS)
def test_a_file_is_called_by_what_it_is_and_the_message_says_what_to_do(
    sort: str, place: Callable[[Path], None], tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(SORTS[sort].data)
    with pytest.raises((FormatError, UnsupportedError)) as caught:
        place(file)
    message = str(caught.value)
    assert str(tmp_path) in message
    if place in CONFIG_PLACES and sort in TEXTS:
        assert "not valid JSON" in message
    elif sort not in READ.get(place, ()):
        assert SORTS[sort].name in message
        assert place in CONFIG_PLACES or SORTS[sort].remedy in message
    assert "header would be" not in message


def test_a_file_of_an_overlay_is_called_by_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(SORTS["a Git LFS pointer"].data)
    with pytest.raises(LoratoolsError, match="a Git LFS pointer"):
        in_overlay(file)


@pytest.mark.parametrize("name", ["x.bin", "x.npz", "x.json"])
def test_a_safetensors_file_under_another_name_is_called_one(tmp_path: Path, name: str) -> None:
    file = Path(shutil.copy(SMALL / WEIGHTS, tmp_path / name))
    with pytest.raises(FormatError, match=r"but a safetensors file; name it \.safetensors"):
        loratools.open_adapter(SMALL if name == "x.json" else file, config=file)


def test_no_adapter_or_base_of_the_fixtures_is_taken_for_another_kind_of_file() -> None:
    files = [*FIXTURES.rglob("*.safetensors")]
    assert files
    for file in files:
        with file.open("rb") as opened:
            known = sniffed(opened.read(SNIFFED_BYTES), file.stat().st_size)
        assert known is not None
        assert known.name == "a safetensors file", file


@pytest.mark.parametrize("left", [3, 9, 200, 20_000, 20_439])
def test_a_download_that_was_cut_off_says_how_much_is_missing(tmp_path: Path, left: int) -> None:
    data = (SMALL / WEIGHTS).read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:left])
    header = 8 + int.from_bytes(data[:8], "little")
    whole = header if left < header else len(data)
    says = "at least 8 expected" if left < 8 else f"{whole - left} .*missing"
    with pytest.raises(FormatError, match=f"{says}.*download it again"):
        loratools.open_adapter(tmp_path / "x.safetensors")
