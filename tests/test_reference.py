"""The tests' own rounding is right: with numpy as with rational numbers, and as numpy's casts."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.reference import FORMATS, rounded, rounded_fraction, spacing


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@given(value=st.floats(-(2.0**16), 2.0**16), exponent=st.integers(-200, 0))
def test_rounding_with_numpy_is_rounding_of_the_rational_number(
    dtype: torch.dtype, value: float, exponent: int
) -> None:
    value = math.ldexp(value, exponent)
    expected = rounded_fraction(Fraction(value), dtype)
    result = float(rounded(torch.tensor([value], dtype=torch.float64), dtype).double())
    if abs(expected) > Fraction(FORMATS[dtype][2]):
        assert result == math.copysign(math.inf, value)
    else:
        assert Fraction(result) == expected


@given(value=st.floats(width=64, allow_nan=False))
def test_rounding_is_numpys_where_numpy_has_the_dtype(value: float) -> None:
    for dtype, name in ((torch.float16, np.float16), (torch.float32, np.float32)):
        with np.errstate(over="ignore"):
            expected = float(np.float64(value).astype(name))
        if math.isfinite(value):
            assert float(rounded(torch.tensor([value], dtype=torch.float64), dtype)) == expected


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_spacing_is_the_last_bit(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 2.0, 0.75, 0.0], dtype=torch.float64)
    last = 2.0 ** (1 - FORMATS[dtype][0])
    smallest = 2.0 ** (FORMATS[dtype][1] + 1 - FORMATS[dtype][0])
    assert spacing(values, dtype).tolist() == [last, last, 2 * last, last / 2, smallest]
