"""NaNs and infinities are found by their exponents, in every dtype that has them."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratools.io.file import InputFile
from loratools.io.finite import holds_nonfinite

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
