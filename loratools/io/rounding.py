"""Rounding a computed weight to its stored dtype, to nearest or stochastically.

A bfloat16 has 8 significant bits. An update that moves a weight by less than half of its last bit
is lost by rounding to nearest, and kept on average by rounding stochastically.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from loratools.io.blocks import block_rows, read_block, rows_of, spans
from loratools.io.dtypes import FACTORS
from loratools.io.source import Source

#: Rounds the first block into the second, which has the output's dtype; the number is the position
#: of the block's first element in its tensor.
Round = Callable[[Tensor, Tensor, int], None]

#: The integers of as many bytes as a float, to look at its bits.
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@final
@dataclass(frozen=True)
class Rounding:
    """How results are rounded: to nearest, or stochastically where there is a seed."""

    seed: int | None = None
    allow_nonfinite: bool = False

    def of(self, name: str) -> Round:
        """The rounding of the tensor `name`."""
        return round_to_nearest if self.seed is None else round_stochastically(self.seed, name)


def compute_dtype(stored: str, output: str) -> torch.dtype:
    """The dtype to compute a result of dtype `output` in: float32 or float64.

    float32 serves a bfloat16 of a 16-bit tensor: its 24 bits decide all but one in about 100,000.
    """
    narrow = output == "BF16" and stored in {"BF16", "F16"}
    return torch.float32 if narrow else torch.float64


def round_to_nearest(value: Tensor, rounded: Tensor, _: int = 0) -> None:
    """Round to the nearest value of the dtype of `rounded`, ties to even."""
    if value.dtype == torch.float64 and rounded.element_size() == 2:
        value = value.clone()
        bits = value.view(torch.int64)
        round_to_odd(bits, torch.empty_like(bits))
    rounded.copy_(value)


def round_to_odd(bits: Tensor, memory: Tensor) -> None:
    """Round float64 numbers, given as their bits, to 13 digits that decide a rounding to 16 bits.

    torch rounds float64 to 16 bits through float32, and rounding twice is wrong where the first
    result is a tie of the second. With the last digit set wherever any were cut off, and two digits
    more than the second result has, it never is (Boldo and Melquiond, 2008). 13 digits fit a
    float32. Tensors of TorchScript have no `view` of another dtype, so this takes the bits.
    `memory` is overwritten.
    """
    cut_off = (1 << 40) - 1
    # The sum has bit 40 set if any bit below it is.
    bits.bitwise_or_(memory.copy_(bits).bitwise_and_(cut_off).add_(cut_off))
    bits.bitwise_and_(-1 - cut_off)


def round_stochastically(seed: int, name: str) -> Round:
    """A rounding up or down with probabilities that make the mean exact.

    The random number of an element depends on `seed`, `name` and its position alone, so that
    the result does not depend on blocks or workers.
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)

    def rounding(value: Tensor, rounded: Tensor, position: int) -> None:
        round_to_nearest(value, rounded)
        excess = value.double() - rounded.double()
        other = numbers_at(ordinals(rounded) + excess.sign().long(), rounded.dtype)
        share = excess / (other.double() - rounded.double())
        chance = _uniform(key, position, value.numel()).view_as(value)
        rounded.copy_(torch.where((excess != 0) & (chance < share), other, rounded))

    return rounding


def ordinals(values: Tensor) -> Tensor:
    """The place of each value among all of its dtype in rising order, as int64; 0 for zeros."""
    integers = INTEGERS[values.dtype.itemsize]
    bits = values.view(integers).long()
    # The bits are sign and magnitude: one more is the next value away from zero.
    return torch.where(bits < 0, torch.iinfo(integers).min - bits, bits)


def numbers_at(order: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of `dtype` at these `ordinals`; zero is positive."""
    integers = INTEGERS[dtype.itemsize]
    bits = torch.where(order < 0, torch.iinfo(integers).min - order, order)
    return bits.to(integers).view(dtype)


def rounds_to(source: Source, stored: Source) -> bool:
    """Whether `source`, rounded to the dtype of `stored`, has exactly the values of `stored`."""
    if source.shape != stored.shape or source.dtype not in FACTORS:
        return False
    rows = rows_of(source.shape)
    for begin, end in spans(0, rows, block_rows(source.shape)):
        block = read_block(stored, begin, end)
        rounded = torch.empty_like(block)
        round_to_nearest(read_block(source, begin, end).double(), rounded)
        if not torch.equal(rounded, block):
            return False
    return True


def _uniform(key: "np.typing.NDArray[np.uint64]", position: int, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1), those of the elements from `position` on.

    The generator is counter-based: it can start at any element without computing those before.
    """
    generator = np.random.Philox(key=key)
    # One step of the counter gives four words of 64 bits, one for each element.
    generator.advance(position // 4)
    words = generator.random_raw(count + position % 4)[position % 4 :]
    # The upper 53 bits of a word are as many as a float64 holds exactly.
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
