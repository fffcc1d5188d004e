"""The difference of two stored tensors, in blocks of rows: read anew each time, or held.

Blocks begin where the shape says, so that results do not depend on what is held.
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
from loratools.io.rounding import rounds_to
from loratools.io.source import Stored
from loratools.io.values import same_bytes
from loratools.lowrank.row_blocks import RowBlocks, squares

#: Elements that are read at a time: few enough for `malloc` not to fetch new pages for each.
_BLOCK = 2**18
#: Widths of the last bit, relative to the first: of a number between 1 and 2.
_ULPS = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23, "F64": 2.0**-52}
#: √⟨x²⟩ of numbers whose logarithms are spread evenly between 1 and 2.
_TYPICAL = math.sqrt(3 / (2 * math.log(2)))


@final
@dataclass(frozen=True)
class Norms:
    """Frobenius norms, as squares: of the difference, and of what it is taken from.

    `noise` is the relative norm that rounding alone could have given the difference.
    """

    change: float
    weight: float
    noise: float = 0.0

    @property
    def relative(self) -> float:
        """The difference relative to the weight; infinite for one of zeros that has changed."""
        if not self.change:
            return 0.0
        return math.sqrt(self.change / self.weight) if self.weight else math.inf


@final
@dataclass(frozen=True)
class Difference:
    """`after` - `before`, two tensors of one shape: in float32 if both have 16 bits, else float64.

    Seen as a matrix: the first dimension by all others. `tick` is called for every block that is
    read; what it raises stops the reading.
    """

    after: Stored
    before: Stored
    tick: Callable[[], None] = lambda: None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        shape = self.after.shape
        return rows_of(shape), math.prod(shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """What it is computed in."""
        narrow = {self.after.dtype, self.before.dtype} <= {"BF16", "F16"}
        return torch.float32 if narrow else torch.float64

    @property
    def _step(self) -> int:
        """The rows of a block: by the shape alone, so that what is held does not show."""
        return max(1, _BLOCK // max(1, self.shape[1]))

    def is_zero(self) -> bool:
        """Whether the one tensor is the other, rounded to its dtype."""
        if self.after.dtype == self.before.dtype:
            return same_bytes(self.after, self.before)
        return rounds_to(self.before, self.after)

    @property
    def noise(self) -> float:
        """The relative norm that rounding alone can give it.

        Between two dtypes, one rounding to the coarser one: errors spread evenly over its last
        bit. Within one dtype, the same numbers computed twice in float32 and then rounded: one in
        `ulp / ulp of float32` falls to the other side and moves by a whole last bit.
        """
        coarse = max(_ULPS[self.after.dtype], _ULPS[self.before.dtype])
        if self.after.dtype != self.before.dtype:
            return coarse / math.sqrt(12) / _TYPICAL
        return math.sqrt(coarse * min(coarse, _ULPS["F32"])) / _TYPICAL

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Blocks with the number of their first row; each is overwritten by the next."""
        for begin, block, _ in self._blocks_and_bases():
            yield begin, block

    def norms(self, held: Tensor | None = None) -> Norms:
        """Read once, added up in float64; and put into `held`, if there is one.

        Raises:
            NonFiniteError: one of the tensors has a NaN or an infinity.
        """
        change = weight = 0.0
        for _, block, base in self._blocks_and_bases(held):
            change += squares(block)
            weight += squares(base)
        if not math.isfinite(change + weight):
            raise NonFiniteError(
                f"{shorten(self.after.name)}: holds a NaN or an infinity, or the base does"
            )
        return Norms(change, weight, self.noise)

    @contextmanager
    def read(self, memory: "Memory") -> Iterator[tuple[RowBlocks, Norms]]:
        """The matrix to be read several times, held if `memory` has room for it, and its norms.

        Raises:
            NonFiniteError: one of the tensors has a NaN or an infinity.
        """
        with memory.room_for(self.shape, self.dtype) as held:
            norms = self.norms(held)
            blocks = self.blocks if held is None else self._cut(held)
            yield RowBlocks(self.shape, blocks, norms.change), norms

    def _cut(self, held: Tensor) -> Callable[[], Iterator[tuple[int, Tensor]]]:
        def blocks() -> Iterator[tuple[int, Tensor]]:
            for begin, end in spans(0, len(held), self._step):
                self.tick()
                yield begin, held[begin:end]

        return blocks

    def _blocks_and_bases(self, held: Tensor | None = None) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First row, difference and base of each block; the differences in `held`, if given."""
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
    """Room for held matrices, shared by threads.

    Memory is kept and used again: the kernel hands out new pages more slowly than we compute.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._free: list[Tensor] = []
        self._lock = threading.Lock()

    @contextmanager
    def room_for(self, shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Tensor | None]:
        """A matrix of this shape until the end of the block; None where there is no room."""
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
        for number, free in enumerate(self._free):
            if len(free) >= count:
                return self._free.pop(number)
        while count > self._left and self._free:
            self._left += len(self._free.pop())
        if count > self._left:
            return None
        self._left -= count
        return torch.empty(count, dtype=torch.uint8)
