"""Archives of numpy arrays: exactly the arrays that were saved, read by their headers alone."""

import io
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from loratools.errors import FormatError, UnsupportedError
from loratools.io.file import InputFile
from loratools.io.npz import read_npz
from loratools.io.source import Source, Stored


def saved(folder: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> InputFile:
    path = folder / "a.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return InputFile(path)


def archive(folder: Path, members: Mapping[str, bytes]) -> InputFile:
    path = folder / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return InputFile(path)


def array_file(description: str, data: bytes = b"") -> bytes:
    """The bytes of an array's own file, with any text for its header."""
    header = description.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def assert_equal(source: Source, array: Any) -> None:
    expected = torch.from_numpy(array.copy())
    assert source.shape == tuple(array.shape)
    assert torch.equal(source.read(), expected)
    if array.ndim and len(array) > 1:
        assert torch.equal(source.read_rows(1, len(array)), expected[1:])


SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NUMBERS = [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_]


@pytest.mark.parametrize("compressed", [False, True])
@given(data=st.data())
def test_every_array_is_read_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool
) -> None:
    dtype = data.draw(st.sampled_from(NUMBERS))
    elements: Any = None if dtype is np.bool_ else st.integers(0, 100).map(dtype)
    array = data.draw(arrays_of.arrays(dtype, SHAPES, elements=elements))
    turned = np.asfortranarray(array)
    arrays = {"model.q.lora_a": array, "turned": turned, "alone": array.ravel()[:1]}
    found = read_npz(saved(tmp_path_factory.mktemp("npz"), arrays, compressed=compressed))
    assert list(found) == list(arrays)
    for name, expected in arrays.items():
        assert found[name].keys == (name,)
        assert_equal(found[name], expected)


def test_array_that_is_not_compressed_is_read_from_its_place(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    (source,) = read_npz(saved(tmp_path, {"a": array})).values()
    assert isinstance(source, Stored)
    assert source.nbytes == array.nbytes


def test_bfloat16_is_two_bytes_without_a_meaning_as_mlx_stores_it(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, -2.5], [0.125, 3e38]], dtype=torch.bfloat16)
    data = values.view(torch.uint8).numpy().tobytes()
    text = "{'descr': '<V2', 'fortran_order': False, 'shape': (2, 2, )}        "
    (source,) = read_npz(archive(tmp_path, {"b.npy": array_file(text, data)})).values()
    assert source.dtype == "BF16"
    assert torch.equal(source.read(), values)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}"


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ({"a.txt": b"x"}, FormatError, "'a.txt' is not an array"),
        ({"a.npy": b"x"}, FormatError, "'a': not an array"),
        ({"a.npy": array_file("(")}, FormatError, "'a': not an array"),
        ({"a.npy": array_file("(" * 10000)}, FormatError, "'a': not an array"),
        ({"a.npy": array_file(GOOD, b"123")}, FormatError, r"has 3 bytes, where F32 \[1\] has 4"),
        (
            {"a.npy": array_file(GOOD.replace("(1,)", "(-1, -1)"), b"1234")},
            FormatError,
            r"has the shape \[-1, -1\]",
        ),
        ({"a.npy": array_file(GOOD.replace("<f4", "|O"))}, UnsupportedError, "which is a pickle"),
        ({"a.npy": array_file(GOOD.replace("<f4", ">f4"))}, UnsupportedError, "dtype >f4"),
        ({"a.npy": array_file(GOOD.replace("<f4", "<M8[s]"))}, UnsupportedError, "dtype <M8"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_numbers_is_refused(
    tmp_path: Path, members: Mapping[str, bytes], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"a.npz: .*{message}"):
        read_npz(archive(tmp_path, members))


def test_pickle_in_an_archive_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="an array of Python objects"):
        read_npz(saved(tmp_path, {"a": np.array([{}], dtype=object)}))


def test_archive_without_arrays_is_empty_and_a_shorter_file_is_none(tmp_path: Path) -> None:
    assert read_npz(saved(tmp_path, {})) == {}
    for data, says in ((b"", "an empty file"), (b"PK\3\4", "not a whole archive .*download it")):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(FormatError, match=says):
            read_npz(InputFile(tmp_path / "a.npz"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        for _ in range(2):
            file.writestr("a.npy", array_file(GOOD, b"1234"))
    with pytest.raises(FormatError, match=r"a\.npz: has two arrays of the same name"):
        read_npz(InputFile(path))


@pytest.mark.parametrize("compressed", [False, True])
def test_no_damage_is_worse_than_an_error(tmp_path: Path, compressed: bool) -> None:
    """Any byte that is cut off or changed gives the same numbers, other ones, or our error."""
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, a=np.arange(6, dtype=np.float32).reshape(2, 3))
    whole = buffer.getvalue()
    damaged = [whole[:end] for end in range(0, len(whole), 7)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(0, len(whole), 3)
    ]
    for number, data in enumerate(damaged):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(data)
        try:
            for source in read_npz(InputFile(path)).values():
                source.read()
        except (FormatError, UnsupportedError):
            continue


def test_reading_headers_needs_no_torch(tmp_path: Path) -> None:
    import subprocess

    saved(tmp_path, {"a": np.ones(3)})
    code = (
        "import sys; from pathlib import Path; from loratools.io.file import InputFile; "
        "from loratools.io.npz import read_npz; "
        f"read_npz(InputFile(Path({str(tmp_path / 'a.npz')!r}))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
