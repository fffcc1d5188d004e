"""One update of each kind, and functions that apply it. A new kind needs a line in `EXAMPLES`.

The numbers are small integers and halves, so that their sums and products are exact in float64.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from loratools.deltas import Delta, Span
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import LoRA, Scaling
from loratools.deltas.placed import Run, placed
from loratools.deltas.rows import Rows
from loratools.deltas.stacked import Stacked
from loratools.deltas.tucker import Tucker
from tests.deltas.computing import held

WEIGHT = torch.tensor([[3, 1, 0, -2], [1, 4, 2, 0], [0, -1, 5, 1], [2, 0, 1, 6]]).double()
FACTORS = LoRA(
    up=held([[1, 0], [2, -1], [0, 3], [-2, 1]], "up"),
    down=held([[1, 2, 0, -1], [0, 1, -3, 2]], "down"),
    scaling=Scaling(alpha=1, rank=2, rule="rank", origin="config"),
    shape=(4, 4),
)
#: A convolution of two channels with a kernel of two numbers.
CORED = Tucker(
    up=held([[1, 0, 2], [2, -1, 0], [0, 3, 1], [-2, 1, 1]], "up"),
    core=held([[[1, 0], [2, -1]], [[0, 3], [1, 1]], [[0, 1], [-1, 0]]], "core"),
    down=held([[1, 2], [3, -1]], "down"),
    scaling=FACTORS.scaling,
)
#: An update of two rows, as a weight has that is fused with others.
PART = replace(FACTORS, up=held([[2, 1], [0, -1]], "up"), shape=(2, 4))
#: By the name of the kind's file. A kind that may see rows or columns has one of both.
EXAMPLES: dict[str, tuple[Delta, ...]] = {
    "lora": (FACTORS,),
    "dora": (
        DoRA(FACTORS, held([1, 2, 3, 4], "magnitude"), "row"),
        DoRA(FACTORS, held([1, 2, 3, 4], "magnitude"), "column"),
        DoRA(replace(FACTORS, shape=(4, 2, 2)), held([3, 2], "magnitude"), "column"),
        DoRA(CORED, held([1, 2, 3, 4], "magnitude"), "row"),
    ),
    "tucker": (
        CORED,
        replace(CORED, core=held([[1, 2], [0, 1], [-1, 0]], "core"), down=FACTORS.down),
    ),
    "kasa": (KaSA(FACTORS, held([1, -2], "diagonal")),),
    "diff": (
        Diff(held([1, -2, 3, 0], "diff"), FACTORS.scaling),
        Diff(held([[1, -2, 3, 0]] * 3 + [[2, 0, 0, 1]], "diff"), FACTORS.scaling),
    ),
    "stacked": (
        Stacked(
            up=held([[[1], [0]], [[2], [-1]], [[0], [3]], [[-2], [1]]], "up"),
            down=held([[[1, 2]], [[0, -1]], [[3, 1]], [[1, 1]]], "down"),
            scaling=FACTORS.scaling,
            shape=(4, 2, 2),
        ),
        Stacked(
            up=held([[[1], [0]], [[2], [-1]], [[0], [3]], [[-2], [1]]], "up"),
            down=held([[[1, 2]]], "down"),
            scaling=FACTORS.scaling,
            shape=(4, 1, 2, 2),
        ),
    ),
    "rows": (Rows((2, 0), held([[1, 2, 3, 4], [0, -1, 0, 1]], "rows"), (4, 4)),),
    "placed": (
        placed(FACTORS, (Run(0, 2, 2), Run(2, 0, 2)), (4, 4)),
        placed(PART, (Run(0, 3, 1), Run(1, 1, 1)), (4, 4)),
        placed(DoRA(PART, held([3, 2, 1, 4], "magnitude"), "column"), (Run(0, 1, 2),), (4, 4)),
        placed(DoRA(PART, held([3, 2], "magnitude"), "row"), (Run(0, 2, 2),), (4, 4)),
        placed(
            Diff(held([1, -2, 3, 0], "diff"), FACTORS.scaling), (Run(0, 2, 2), Run(2, 0, 2)), (4,)
        ),
    ),
}
#: What a kind without an example is told.
WANTED = (
    "write one change of this kind in EXAMPLES of tests/deltas/examples.py, under the name of its "
    "file: for a weight of shape (4, 4), or (4,), of small whole numbers, so that sums are exact"
)


def weight_for(delta: Delta) -> Tensor:
    """A weight of the shape that an update needs, as a matrix; for a vector it has one column."""
    return WEIGHT[:, : math.prod(delta.shape[1:])]


def applied(
    delta: Delta, weight: Tensor, strength: float = 1.0, height: int = 4, step: int = 4
) -> Tensor:
    """The updated `weight`, computed by spans of `step` rows in blocks of `height` rows."""

    def blocks() -> Iterator[tuple[int, Tensor]]:
        for begin in range(0, len(weight), height):
            yield begin, weight[begin : begin + height].clone()

    changed = weight.clone()
    for begin in range(0, len(weight), step):
        end = min(begin + step, len(weight))
        apply = delta.bind(Span(begin, end, weight.dtype, blocks), strength)
        for first in range(begin, end, height):
            block = changed[first : min(first + height, end)].clone()
            apply(block, first)
            changed[first : first + len(block)] = block
    return changed


def change(delta: Delta, strength: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """The difference between the updated weight and the weight, for any kind of update."""
    weight = weight_for(delta) if weight is None else weight
    return applied(delta, weight, strength) - weight
