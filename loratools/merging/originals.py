"""How many numbers each element may have been before a merge that rounded it."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loratools.io.rounding import INTEGERS, numbers_at, ordinals
from loratools.merging.taken_back import TakenBack

#: The error of a computed sum, in units in the last place of its dtype. It covers a product of
#: thousands of terms, whose errors add up by their root.
_ERROR_UNITS = 8


def count_originals(
    merged: Float[Tensor, "*shape"], update: Float[Tensor, "*shape"], dtype: torch.dtype
) -> Int[Tensor, "*shape"]:
    """For each element, how many numbers of `dtype` a merge may have rounded to `merged`.

    `update` is what is added to take the merged update out again, and `merged` has numbers of
    `dtype`, in the wider dtype of `update`. An original is a number w whose w - update is nearest
    to `merged`: those from `merged` less half the gap below it to `merged` plus half the gap above
    it, both plus `update`. Ties, and numbers that a merge may have taken for ties as it computed in
    this dtype, are counted as originals.
    """
    order = ordinals(merged.to(dtype))
    below, above = (
        (numbers_at(order + step, dtype).to(merged.dtype) - merged).abs() / 2 for step in (-1, 1)
    )
    # The largest number is followed by infinity, but a merge rounds to it as if by one more number.
    below, above = below.where(below.isfinite(), above), above.where(above.isfinite(), below)
    error = _ERROR_UNITS * torch.finfo(merged.dtype).eps * (merged.abs() + update.abs())
    least = merged + update - below - error
    most = merged + update + above + error
    # Rounding to `dtype` gives one of the two numbers beside, whichever way it rounds.
    first, last = least.to(dtype), most.to(dtype)
    first_order = ordinals(first) + (first < least)
    last_order = ordinals(last) - (last > most).long()
    largest = ordinals(torch.tensor(torch.finfo(dtype).max, dtype=dtype))
    found = last_order.clamp(max=largest) - first_order.clamp(min=-largest) + 1
    return found.clamp(min=0)


def taken_back(
    merged: Float[Tensor, "*shape"], update: Float[Tensor, "*shape"], dtype: torch.dtype
) -> TakenBack:
    """What is known of the elements after `update` is added to `merged`: see `count_originals`."""
    doubtful = ~has_one_original(merged, update, dtype)
    counts = count_originals(merged[doubtful], update[doubtful], dtype)
    several = counts[counts > 1]
    return TakenBack(
        elements=merged.numel(),
        most=len(several),
        expected=float((1 - 1 / several.double()).sum()),
        foreign=int((counts == 0).sum()),
    )


def has_one_original(
    merged: Float[Tensor, "*shape"], update: Float[Tensor, "*shape"], dtype: torch.dtype
) -> Bool[Tensor, "*shape"]:
    """Which elements surely have one original: nearly all, in a tenth of the time of counting.

    Where a number keeps its exponent, and neither it nor the result is a power of two, all gaps
    beside both are equal. So the result is the only original, unless it is nearly a tie.
    """
    total = merged + update
    result = total.to(dtype)
    integers = INTEGERS[dtype.itemsize]
    before, after = merged.to(dtype).view(integers), result.view(integers)
    spacing = torch.finfo(dtype).eps  # of the numbers from 1 to 2: one unit of their last digit
    digits = round(1 / spacing) - 1
    exponent = torch.iinfo(integers).max - digits
    found = ((before ^ after) & exponent) == 0
    found &= (before & digits) != 0
    found &= (after & digits) != 0
    # Of the sums in `count_originals`, none is more than eight times the power of two.
    share = spacing / 2 - 8 * _ERROR_UNITS * torch.finfo(total.dtype).eps
    power = (after & exponent).view(dtype).to(total.dtype)  # 0 for numbers too small for a digit
    return found & (total.sub_(result).abs_() < power.mul_(share))
