"""Which changes take an update out of the base, and what is said of the numbers that are left."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from loratools.errors import counted
from loratools.io.dtypes import BITS, torch_name
from loratools.merging.plan import PlannedTensor
from loratools.merging.taken_back import TakenBack
from loratools.merging.touched import changing, edges

#: The dtypes whose rounding can be counted. For float64, no dtype is wider.
_ROUNDED = ("BF16", "F16", "F32")


def taken_out(tensor: PlannedTensor) -> frozenset[int]:
    """The changes that take an update out of the base's tensor, as indices of `tensor.changes`.

    There are none where the output has a narrower dtype, whose last digit is coarser than all that
    the merge may have rounded away.
    """
    stored = tensor.origin.dtype
    is_narrowed = BITS[tensor.dtype] < BITS[stored]
    if tensor.origin is not tensor.base or stored not in _ROUNDED or is_narrowed:
        return frozenset()
    return frozenset(
        number
        for number, change in enumerate(tensor.changes)
        if change.strength * change.block_weight < 0
    )


def by_dtype(
    tensors: Iterable[PlannedTensor], counts: Mapping[str, TakenBack | None]
) -> dict[str, TakenBack]:
    """The counts of all tensors that an update is taken out of, by the name of their dtype.

    `counts` are those of tensors in which they were made, by name.
    """
    found: dict[str, TakenBack] = {}
    for tensor in tensors:
        if numbers := taken_out(tensor):
            part = counts.get(tensor.name) or _uncounted(tensor, numbers)
            name = torch_name(tensor.origin.dtype)
            found[name] = found[name] + part if name in found else part
    return found


def _uncounted(tensor: PlannedTensor, numbers: frozenset[int]) -> TakenBack:
    rows = sum(
        last - first
        for first, last in pairwise(edges(tensor))
        if numbers.intersection(changing(tensor, first))
    )
    elements = rows * math.prod(tensor.shape[1:])
    return TakenBack(elements, elements, None, 0)


def taken_back_notes(found: Mapping[str, TakenBack]) -> Iterator[str]:
    """A note for each dtype."""
    for dtype, part in found.items():
        out_of = f"a negative weight takes an update out of {counted(part.elements, 'element')}"
        swaps = "a swap takes out to the last byte what it has put in"
        yield f"{out_of} in {dtype}; {_known(part, dtype)}; {swaps}"


def _known(part: TakenBack, dtype: str) -> str:
    if part.expected is None:
        return "where a merge had rounded them, up to all of them are not what they were before it"
    if part.foreign:
        return (
            f"{part.foreign} of them cannot come from a merge of this update alone into {dtype}, "
            f"so how many are what they were is not known"
        )
    if not part.most:
        return "if a merge of this update alone made them, all are what they were before it"
    return (
        f"if a merge of this update alone made them, about {part.expected:.0f}, and at most "
        f"{part.most}, are not what they were before it"
    )
