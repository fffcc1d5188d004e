"""NaNs, infinities and zeros are found by their bits, in every dtype that has them."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratools.io.dtypes import BITS, to_torch
from loratools.io.file import InputFile
from loratools.io.finite import holds_nonfinite, is_zero_throughout
from loratools.io.source import as_bytes

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def found(path: Path, tensor: torch.Tensor) -> bool:
    save_file({"before": torch.full((3,), math.nan), "x": tensor}, path)
    file = InputFile(path)
    (info,) = [each for each in file.read_header().tensors if each.name == "x"]
    return holds_nonfinite(file, info)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 131_071, 131_072, -1])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(
    tmp_path: Path, dtype: torch.dtype, bad: float, place: int
) -> None:
    tensor = torch.zeros(300_000, dtype=dtype)
    tensor[place] = bad
    assert found(tmp_path / "x", tensor)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_and_the_smallest_values_are_finite(tmp_path: Path, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    values = [limits.max, limits.min, limits.tiny, limits.smallest_normal, 0.0, -0.0]
    assert not found(tmp_path / "x", torch.tensor(values, dtype=dtype))


@pytest.mark.parametrize("tensor", [torch.zeros(0), torch.full((4,), -1), torch.tensor(1.0)])
def test_other_tensors_are_finite(tmp_path: Path, tensor: torch.Tensor) -> None:
    assert not found(tmp_path / "x", tensor)


@pytest.mark.parametrize("dtype", [d for d in BITS if not d.startswith(("F4", "F6", "F8_E8"))])
def test_zero_is_what_torch_takes_for_zero_in_every_dtype(dtype: str) -> None:
    """Every pattern of bits in the first or the last byte of one number: the sign bit is there."""
    for byte in range(256):
        for place in (0, -1):
            numbers = torch.zeros(3, dtype=to_torch(dtype)).view(torch.uint8)
            numbers[place] = byte % 2 if dtype == "BOOL" else byte
            wide = numbers.view(to_torch(dtype)).to(torch.complex128)
            assert is_zero_throughout(bytes(as_bytes(numbers)), dtype) is not bool(wide.any())


def test_zeros_among_other_numbers_are_found_by_their_place() -> None:
    numbers = bytes(as_bytes(torch.tensor([1.0, 0.0, -0.0, 0.0, 2.0])))
    spans = [(begin, end) for begin in range(0, 20, 4) for end in range(begin + 4, 24, 4)]
    zero = [span for span in spans if is_zero_throughout(numbers, "F32", *span)]
    assert zero == [(4, 8), (4, 12), (4, 16), (8, 12), (8, 16), (12, 16)]
