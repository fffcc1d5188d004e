"""The rows of a weight that are changed at once, and the function that changes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Changes a block of rows in place; the number is the index of the block's first row.
Apply = Callable[["Tensor", int], None]


@final
@dataclass(frozen=True, eq=False)
class Product:
    """An `Apply` that adds rows of `up @ down`; the first row of `up` is for row `begin`.

    As a value, so that a merge can add many products in one loop.
    """

    up: "Tensor"
    down: "Tensor"
    begin: int

    def __call__(self, block: "Tensor", begin: int) -> None:
        """Add the product to a block whose first row is `begin`."""
        begin -= self.begin
        block.addmm_(self.up[begin : begin + block.shape[0]], self.down)


@final
@dataclass(frozen=True)
class Span:
    """The rows `begin` to `end` (exclusive) of a weight, to be computed in `dtype`.

    `blocks` iterates over the *whole* weight as it is before the change, for kinds that need to see
    all of it. It yields pairs of a block's first row and the block, which the caller may overwrite.
    """

    begin: int
    end: int
    dtype: "torch.dtype"
    blocks: Callable[[], Iterator[tuple[int, "Tensor"]]]
