"""A single number is read and rounded as torch does it."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from loratools.io.dtypes import FLOATS, to_torch
from loratools.io.file import InputFile
from loratools.io.scalar import SCALARS, _decode, read_scalar, read_scalars, rounded
from loratools.io.source import Held, Source, Stored, stored_tensors


@pytest.mark.parametrize("dtype", SCALARS)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_number_is_that_of_torch_from_a_file_and_from_memory(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    tensor = torch.tensor(12.5).to(to_torch(dtype)).reshape(shape)
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    file = InputFile(tmp_path / "x.safetensors")
    (info,) = file.read_header().tensors
    assert read_scalar(Stored(*info, file)) == tensor.item()
    assert read_scalar(Held("x", tensor, dtype)) == tensor.item()


def test_many_numbers_are_read_as_each_of_them(tmp_path: Path) -> None:
    sources: dict[str, Source] = {"held": Held("held", torch.tensor(0.5), "F32")}
    for number, name in enumerate(("one", "other")):
        values = {dtype: torch.tensor(12 + number).to(to_torch(dtype)) for dtype in SCALARS}
        save_file(values, tmp_path / name)
        file = InputFile(tmp_path / name)
        stored = stored_tensors(file, file.read_header())
        sources |= {f"{name} {dtype}": source for dtype, source in stored.items()}
    assert len(sources) == 1 + 2 * len(SCALARS)
    assert read_scalars(sources) == {name: read_scalar(s) for name, s in sources.items()}


@pytest.mark.parametrize("dtype", [dtype for dtype in SCALARS if dtype.startswith("F8")])
def test_number_of_8_bits_is_that_of_torch_for_every_code(dtype: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    expected = codes.view(to_torch(dtype)).double()
    found = torch.tensor([_decode(bytes((code,)), dtype) for code in range(256)])
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0, equal_nan=True)


@given(number=st.floats(-400, 400), dtype=st.sampled_from(["F8_E4M3", "F8_E5M2FNUZ"]))
def test_number_is_rounded_to_a_nearest_one_of_8_bits(number: float, dtype: str) -> None:
    expected = torch.tensor(number, dtype=torch.float64).to(to_torch(dtype)).item()
    assert abs(rounded(number, dtype) - number) == abs(expected - number)


@given(
    number=st.floats(allow_nan=False) | st.floats(-70000, 70000) | st.floats(-1e-6, 1e-6),
    dtype=st.sampled_from(FLOATS),
)
def test_rounding_to_16_bits_goes_through_float32(number: float, dtype: str) -> None:
    tensor = torch.tensor(number, dtype=torch.float64)
    expected = (tensor.float() if dtype in ("F16", "BF16") else tensor).to(to_torch(dtype)).item()
    assert rounded(number, dtype) == expected


@pytest.mark.parametrize(
    ("number", "dtype", "holds"),
    [
        (3.0, "I64", True),
        (0.5, "I64", False),
        (-128.0, "I8", True),
        (128.0, "I8", False),
        (-1.0, "U8", False),
        (255.0, "U8", True),
        (math.inf, "I32", False),
    ],
)
def test_integers_are_not_rounded_to(number: float, dtype: str, holds: bool) -> None:
    assert (rounded(number, dtype) == number) is holds
