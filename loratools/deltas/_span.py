"""The rows of a weight that are changed at once, and the function that changes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from loratools.errors import ShapeMismatchError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Changes a block of rows in place; the number is the index of the block's first row.
Apply = Callable[["Tensor", int], None]


@final
@dataclass(frozen=True, eq=False)
class Product:
    """An `Apply` that adds rows of `up @ down`; the first row of `up` is for row `begin`.

    Rows before the first and after the last one of `up` stay as they are. It is a value, so that a
    merge can add many products in one loop.
    """

    up: "Tensor"
    down: "Tensor"
    begin: int

    def __call__(self, block: "Tensor", begin: int) -> None:
        """Add the product to a block whose first row is `begin`."""
        first, last = max(begin, self.begin), min(begin + len(block), self.end)
        if first < last:
            rows = self.up[first - self.begin : last - self.begin]
            block[first - begin : last - begin].addmm_(rows, self.down)

    @property
    def end(self) -> int:
        """The row after the last one that the product is added to."""
        return self.begin + len(self.up)

    def covers(self, row: int) -> bool:
        """Whether the product is added to a row."""
        return self.begin <= row < self.end


@final
@dataclass(frozen=True, eq=False)
class Apart:
    """An `Apply` of several, each of which changes rows that no other one changes."""

    parts: tuple[Apply, ...]

    def __call__(self, block: "Tensor", begin: int) -> None:
        """Let each part change its own rows of a block whose first row is `begin`."""
        for part in self.parts:
            part(block, begin)


def parts_of(apply: Apply) -> tuple[Apply, ...]:
    """The parts of an `Apart`, or else the function itself as the only one."""
    return apply.parts if isinstance(apply, Apart) else (apply,)


@final
@dataclass(frozen=True)
class Span:
    """The rows `begin` to `end` (exclusive) of a weight, to be computed in `dtype`.

    `blocks` iterates over the *whole* weight as it is before the change, for kinds that need to see
    all of it. (Of a weight that a change is placed in, it may leave out the rows of others.) It
    yields pairs of a block's first row and the block, which the caller may overwrite: each row
    once, and the blocks in any order.
    """

    begin: int
    end: int
    dtype: "torch.dtype"
    blocks: Callable[[], Iterator[tuple[int, "Tensor"]]]


def is_whole(begin: int, end: int, shape: tuple[int, ...]) -> bool:
    """Whether the rows `begin` to `end` are all that a weight of this shape has.

    Raises:
        ShapeMismatchError: they are none, or not rows of the weight.
    """
    if not 0 <= begin < end <= shape[0]:
        raise ShapeMismatchError(
            f"rows {begin} to {end} are not some of the {shape[0]} of a weight of shape "
            f"{list(shape)}"
        )
    return (begin, end) == (0, shape[0])
