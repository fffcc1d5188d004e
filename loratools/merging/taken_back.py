"""What is known of numbers from which an update is taken out again, which had been rounded."""

import math

from loratools.errors import counted
from loratools.io.dtypes import BITS, torch_name
from loratools.merging.plan import MergePlan


def taken_back_note(plan: MergePlan) -> tuple[str, ...]:
    """A note on weights of 16 bits that an adapter with a negative weight changes.

    If a merge has put the adapter into them, that merge has rounded, and several numbers may have
    become the same one. Which of them it was is not stored, so the number of elements that are not
    what they were is known only beside the original; at most it is the number given here.
    """
    sizes: dict[str, int] = {}
    for tensor in plan.changed:
        is_narrow = BITS[tensor.origin.dtype] < 32
        if is_narrow and any(c.strength * c.block_weight < 0 for c in tensor.changes):
            name = torch_name(tensor.origin.dtype)
            sizes[name] = sizes.get(name, 0) + math.prod(tensor.shape)
    return tuple(
        f"a negative weight takes an update out of {counted(size, 'element')} in {name}; where a "
        f"merge had rounded them, up to all of them are not what they were, and only the original "
        f"base shows how many; what swap --in has put in, swap --out takes out to the last byte"
        for name, size in sizes.items()
    )
