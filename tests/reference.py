"""Rounding to a float of p bits, written with numpy and with fractions and not by loratools."""

from fractions import Fraction
from typing import Final

import numpy as np
import torch
from torch import Tensor

#: Significant bits, the exponent of the smallest normal number, and the largest finite number.
FORMATS: Final = {
    torch.float16: (11, -14, 65504.0),
    torch.bfloat16: (8, -126, 2.0**127 * (2 - 2**-7)),
    torch.float32: (24, -126, 2.0**127 * (2 - 2**-23)),
    torch.float64: (53, -1022, 2.0**1023 * (2 - 2**-52)),
}


def unit(dtype: torch.dtype) -> float:
    """Half of the last bit of 1: the largest relative error of rounding."""
    return 2.0 ** -FORMATS[dtype][0]


def smallest(dtype: torch.dtype) -> float:
    """The smallest number above zero."""
    bits, least, _ = FORMATS[dtype]
    return 2.0 ** (least - bits + 1)


def spacing(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbours of `dtype` in the binade of each float64 value."""
    bits, least, _ = FORMATS[dtype]
    exponent = np.frexp(value.numpy())[1]
    exponent = np.where(value.numpy() == 0, least, exponent)  # numpy gives 0 for it
    return torch.from_numpy(np.ldexp(1.0, np.maximum(exponent, least + 1) - bits))


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 values to the nearest of `dtype`, ties to even: every step of this is exact."""
    if dtype == torch.float64:
        return value.clone()
    quantum = spacing(value, dtype).numpy()
    with np.errstate(over="ignore"):
        nearest = np.rint(value.numpy() / quantum) * quantum
    largest = FORMATS[dtype][2]
    infinite = np.where(np.abs(nearest) > largest, np.copysign(np.inf, nearest), nearest)
    return torch.from_numpy(infinite).to(dtype)


def rounded_fraction(value: Fraction, dtype: torch.dtype) -> Fraction:
    """The same for one number, with rational arithmetic and no floats; it never overflows."""
    bits, least, _ = FORMATS[dtype]
    if value == 0:
        return value
    exponent = 0
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    quantum = Fraction(2) ** (max(exponent, least) - bits + 1)
    return round(value / quantum) * quantum
