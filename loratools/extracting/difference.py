"""The difference of two stored tensors in blocks of rows, read again each time or held in memory.

The shape alone decides where blocks begin, so that results do not depend on what is held.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from loratools.errors import NonFiniteError, shorten
from loratools.io.blocks import rows_of, spans
from loratools.io.dtypes import to_torch
from loratools.io.picked import Picked
from loratools.io.rounding import rounds_to
from loratools.io.source import Stored
from loratools.io.values import same_bytes
from loratools.lowrank.row_blocks import RowBlocks, squares

#: Elements that are read at a time: few enough that `malloc` reuses memory instead of fetching new
#: pages for each block.
_BLOCK = 2**18
#: The width of the last bit (ulp) of a number between 1 and 2, by dtype.
_ULPS = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23, "F64": 2.0**-52}
#: The root mean square of numbers from 1 to 2 whose logarithms are uniformly distributed.
_TYPICAL = math.sqrt(3 / (2 * math.log(2)))


@final
@dataclass(frozen=True)
class Norms:
    """Squared Frobenius norms of a difference (`change`) and of the base's tensor (`weight`).

    `noise` is the relative norm, not squared, that rounding alone could have given the difference.
    """

    change: float
    weight: float
    noise: float = 0.0

    @property
    def relative(self) -> float:
        """The difference's norm relative to the weight's; infinite if a zero weight changed."""
        if not self.change:
            return 0.0
        return math.sqrt(self.change / self.weight) if self.weight else math.inf


@final
@dataclass(frozen=True)
class Difference:
    """The difference `after - before` of two tensors with one shape, seen as a matrix.

    Its rows are the first dimension of the tensors, its columns all others. It is computed in
    float32 if both tensors have 16 bits, else in float64. `tick` is called for every block that is
    read; if it raises, reading stops.
    """

    after: Stored | Picked
    before: Stored | Picked
    tick: Callable[[], None] = lambda: None

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        shape = self.after.shape
        return rows_of(shape), math.prod(shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the difference is computed in."""
        narrow = {self.after.dtype, self.before.dtype} <= {"BF16", "F16"}
        return torch.float32 if narrow else torch.float64

    @property
    def _step(self) -> int:
        """The number of rows of a block, which depends on the shape alone."""
        return max(1, _BLOCK // max(1, self.shape[1]))

    def is_zero(self) -> bool:
        """Whether the tensors are equal, or `after` is `before` rounded to its dtype."""
        if self.after.dtype == self.before.dtype:
            return same_bytes(self.after, self.before)
        return rounds_to(self.before, self.after)

    @property
    def noise(self) -> float:
        """The relative norm that rounding alone can give the difference.

        Between two dtypes, one rounding to the coarser one is assumed, with errors that are spread
        evenly over its last bit. Within one dtype, the same numbers are assumed to be computed
        twice in float32 and then rounded: one in `ulp / ulp of float32` is rounded the other way
        and differs by a whole last bit.
        """
        coarse = max(_ULPS[self.after.dtype], _ULPS[self.before.dtype])
        if self.after.dtype != self.before.dtype:
            return coarse / math.sqrt(12) / _TYPICAL
        return math.sqrt(coarse * min(coarse, _ULPS["F32"])) / _TYPICAL

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield blocks with the number of their first row; each block overwrites the one before."""
        for begin, block, _ in self._blocks_and_bases():
            yield begin, block

    def norms(self, held: Tensor | None = None) -> Norms:
        """Read the difference once and add up its norms in float64; store it in `held`, if given.

        Raises:
            NonFiniteError: one of the tensors has a NaN or an infinity.
        """
        change = weight = 0.0
        for _, block, base in self._blocks_and_bases(held):
            change += squares(block)
            weight += squares(base)
        if not math.isfinite(change + weight):
            raise NonFiniteError(
                f"{shorten(self.after.name)}: holds a NaN or an infinity, or the base does",
                tensor=self.after.name,
            )
        return Norms(change, weight, self.noise)

    @contextmanager
    def read(self, memory: "Memory") -> Iterator[tuple[RowBlocks, Norms]]:
        """Provide the difference for several passes, held if `memory` has room, and its norms.

        Raises:
            NonFiniteError: one of the tensors has a NaN or an infinity.
        """
        with memory.room_for(self.shape, self.dtype) as held:
            norms = self.norms(held)
            blocks = self.blocks if held is None else self._cut(held)
            yield RowBlocks(self.shape, blocks, norms.change), norms

    def _cut(self, held: Tensor) -> Callable[[], Iterator[tuple[int, Tensor]]]:
        """A function that yields a difference held in memory in the same blocks as `blocks`."""

        def blocks() -> Iterator[tuple[int, Tensor]]:
            for begin, end in spans(0, len(held), self._step):
                self.tick()
                yield begin, held[begin:end]

        return blocks

    def _blocks_and_bases(self, held: Tensor | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the first row, the difference and the base of each block.

        Differences are written into `held`, if it is given; else each overwrites the one before.
        """
        rows, columns = self.shape
        step = min(rows, self._step)
        after = torch.empty(step, columns, dtype=to_torch(self.after.dtype))
        before = torch.empty(step, columns, dtype=to_torch(self.before.dtype))
        base = torch.empty(step, columns, dtype=self.dtype)
        space = torch.empty_like(base)
        for begin, end in spans(0, rows, step):
            self.tick()
            count = end - begin
            self.after.read_rows_into(after[:count], begin)
            self.before.read_rows_into(before[:count], begin)
            base[:count].copy_(before[:count])
            block = space[:count] if held is None else held[begin:end]
            yield begin, block.copy_(after[:count]).sub_(base[:count]), base[:count]


@final
class Memory:
    """A limited amount of memory for matrices that are held, shared by threads.

    Memory that was used is kept for the next matrix: the kernel hands out new pages more slowly
    than differences are computed.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._free: list[Tensor] = []
        self._lock = threading.Lock()

    @contextmanager
    def room_for(self, shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Tensor | None]:
        """Lend a matrix of this shape until the `with` block ends; None if there is no room."""
        count = math.prod(shape) * dtype.itemsize
        with self._lock:
            taken = self._take(count)
        try:
            yield None if taken is None else taken[:count].view(dtype).view(shape)
        finally:
            if taken is not None:
                with self._lock:
                    self._free.append(taken)

    def _take(self, count: int) -> Tensor | None:
        """Find `count` bytes: a free piece that is large enough, or new memory within the limit."""
        for number, free in enumerate(self._free):
            if len(free) >= count:
                return self._free.pop(number)
        # All free pieces are too small: release some, so that a larger one fits into the limit.
        while count > self._left and self._free:
            self._left += len(self._free.pop())
        if count > self._left:
            return None
        self._left -= count
        return torch.empty(count, dtype=torch.uint8)
