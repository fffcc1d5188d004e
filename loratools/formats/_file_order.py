"""The order in which tensors are written: that of the file that was read."""

from collections.abc import Mapping, Sequence

from loratools.io.dtypes import BITS
from loratools.io.source import Source


def in_file_order(order: Sequence[str], tensors: Mapping[str, Source]) -> dict[str, Source]:
    """The tensors sorted by dtype, the widest first, and then in the order in which they were read.

    A new tensor follows the tensor before it. The safetensors library sorts by dtype as well, which
    keeps every tensor aligned.
    """
    filed = {key: position for position, key in enumerate(order)}
    positions = {}
    position = -1
    for key in tensors:
        position = positions[key] = filed.get(key, position)
    keys = sorted(tensors, key=lambda key: (-BITS[tensors[key].dtype], positions[key]))
    return {key: tensors[key] for key in keys}
