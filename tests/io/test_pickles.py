"""A pickle is read only with the restricted unpickler of a torch without known holes."""

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loratools.errors import FormatError, UnsupportedError
from loratools.io.pickles import read_pickle


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "adapter_model.bin"


def test_tensors_come_in_the_order_of_the_file(path: Path) -> None:
    values = {"b": torch.ones(2, 3).bfloat16(), "a": torch.arange(3), "c": torch.ones(4, 2).T}
    torch.save(values, path)
    found = read_pickle(path)
    assert list(found) == ["b", "a", "c"]
    for name, source in found.items():
        assert torch.equal(source.read(), values[name])
        assert source.read().is_contiguous()
    assert (found["b"].dtype, found["a"].dtype) == ("BF16", "I64")


def test_tensors_of_a_list_are_named_by_their_positions(path: Path) -> None:
    values = [torch.ones(2), torch.zeros(3, 4)]
    torch.save(values, path)
    found = read_pickle(path)
    assert list(found) == ["0", "1"]
    assert all(torch.equal(found[str(n)].read(), value) for n, value in enumerate(values))


def test_warnings_of_torch_are_not_the_users_concern(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch 2.14 warns of sparse tensors, which are refused."""

    def load(*arguments: object, **options: object) -> object:
        warnings.warn("Validating sparse tensor invariants", UserWarning, stacklevel=2)
        return {"a": torch.ones(2)}

    torch.save({}, path)
    monkeypatch.setattr(torch, "load", load)
    assert list(read_pickle(path)) == ["a"]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_a_pickle_would_run_is_not_run(path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps({"a": _Bomb(path.parent / "ran")}, protocol))
    with pytest.raises(FormatError, match="cannot be read as a pickled state dict"):
        read_pickle(path)
    assert not (path.parent / "ran").exists()


def test_what_a_torch_file_would_run_is_not_run(path: Path) -> None:
    torch.save({"a": _Bomb(path.parent / "ran")}, path)
    with pytest.raises(FormatError, match="cannot be read as a pickled state dict") as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)
    assert not (path.parent / "ran").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([torch.ones(1), 1], "1 is a int, not a tensor"),
        ((torch.ones(1),), "holds a tuple, a dict of named tensors was expected"),
        (torch.ones(1), "holds a Tensor, a dict of named tensors was expected"),
        ({"a": 1}, "a is a int, not a tensor"),
        ({1: torch.ones(1)}, "has 1 for the name of a tensor"),
        ({"a": {"b": torch.ones(1)}}, "a is a dict, not a tensor"),
        ({"a": torch.ones(1, dtype=torch.complex128)}, "a has the dtype complex128"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is sparse, nested or without numbers"),
        ({"a": torch.ones(2, 2, device="meta")}, "a is sparse, nested or without numbers"),
    ],
)
def test_only_named_tensors_are_taken(path: Path, value: object, says: str) -> None:
    torch.save(value, path)
    with pytest.raises(FormatError, match=says):
        read_pickle(path)


@pytest.mark.parametrize("data", [b"", b"\x80", b"PK\x03\x04", bytes(100), b"\x80\x02.", b"hello"])
def test_a_broken_pickle_is_an_error_of_ours(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"adapter_model\.bin: "):
        read_pickle(path)


def test_a_missing_pickle_is_an_error_of_ours(path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        read_pickle(path)


def test_a_truncated_pickle_is_an_error_of_ours(path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 211):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            read_pickle(path)


def test_an_old_torch_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its restricted unpickler was broken: CVE-2025-32434, CVE-2026-24747."""
    torch.save({"a": torch.ones(1)}, path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(UnsupportedError, match=r"2\.10 or newer is needed"):
        read_pickle(path)


def test_a_torch_file_is_read_whatever_its_archive_begins_with(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in reversed(members):
            archive.writestr(name, data)
    assert torch.equal(read_pickle(path)["a"].read(), torch.ones(2))
