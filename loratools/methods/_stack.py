"""Matrices that are given by their factors, and formed one block of rows at a time, in float32.

Blocks stay in a core's cache, and forming them again is cheaper than keeping them. So a method
that works entry by entry needs memory only for its result and a few blocks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import hardshrink

from loratools.errors import NonFiniteError, shorten
from loratools.methods import Task

#: The entries of a block: a quarter of a million in float32, of several matrices, stay in a core's
#: cache.
_BLOCK = 2**18
#: The largest entry: its square, and sums of a few such squares, do not overflow float32.
_LARGEST = 1e18
#: The number of entries drawn at random to locate a threshold; a small matrix is used whole.
_SAMPLE = 2**16
#: The standard deviations by which a sample may miss the threshold; it misses more once in 10^9.
_DEVIATIONS = 6

#: Computes the result for one block of all matrices; the number is the position of its first entry.
Change = Callable[[int, Sequence[Tensor]], Tensor]
Scores = NDArray[np.floating[Any]]
Positions = NDArray[np.int64]
#: Computes a number above or equal to zero for each entry of one block of all matrices.
Score = Callable[[Sequence[Tensor]], Tensor]


@final
@dataclass(frozen=True, eq=False)
class Stack:
    """Matrices of one shape, given by their factors; positions count their entries row by row."""

    shape: tuple[int, int]
    ups: tuple[Float[Tensor, "m _"], ...]
    downs: tuple[Float[Tensor, "_ n"], ...]

    @classmethod
    def of(cls, task: Task) -> "Stack":
        """The updates of a task, without their weights.

        Raises:
            NonFiniteError: squares of their entries overflow float32.
        """
        for update, weight in zip(task.updates, task.weights, strict=True):
            entries = update.up.abs().amax(0) @ update.down.abs().amax(1)
            if abs(weight) * float(entries) > _LARGEST:
                raise NonFiniteError(
                    f"{shorten(task.target)}: an update is too large to be combined entry by "
                    f"entry: above {_LARGEST}",
                    tensor=task.target,
                )
        narrow = [update.to(torch.float32, task.device) for update in task.updates]
        return cls(
            task.updates[0].shape,
            tuple(update.up for update in narrow),
            tuple(update.down for update in narrow),
        )

    @property
    def size(self) -> int:
        """The number of entries of each matrix."""
        return math.prod(self.shape)

    def only(self, number: int) -> "Stack":
        """A stack of only the matrix with this index."""
        return Stack(self.shape, (self.ups[number],), (self.downs[number],))

    def blocks(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield blocks of rows of all matrices, each with the position of its first entry.

        The blocks are the same at each call.
        """
        m, n = self.shape
        rows = max(1, _BLOCK // max(n, 1))
        for at in range(0, m, rows):
            pairs = zip(self.ups, self.downs, strict=True)
            yield at * n, [up[at : at + rows] @ down for up, down in pairs]

    def entries(self, positions: Tensor) -> list[Tensor]:
        """The entries of all matrices at some positions.

        Their rounding can differ from that of `blocks`, whose sums are added in another order.
        """
        rows, columns = positions // self.shape[1], positions % self.shape[1]
        pairs = zip(self.ups, self.downs, strict=True)
        return [(up[rows] * down.T[columns]).sum(1) for up, down in pairs]

    def changed(self, change: Change) -> Float[Tensor, "m n"]:
        """Compute a matrix of the same shape, block by block."""
        result = self.ups[0].new_empty(self.shape)
        flat = result.view(-1)
        for position, blocks in self.blocks():
            flat[position : position + blocks[0].numel()] = change(position, blocks).view(-1)
        return result


@final
@dataclass(frozen=True)
class Cut:
    """The limit of the largest entries: above `value`, or equal to it before position `end`."""

    value: float
    end: int

    def trimmed(self, block: Tensor, position: int) -> Tensor:
        """A block in which entries whose magnitudes are not among the largest are zero."""
        value = torch.tensor(self.value, dtype=block.dtype)
        # hardshrink keeps magnitudes above its threshold; from the number below `value` on, it
        # keeps those that equal `value` as well.
        below = value.nextafter(-torch.ones_like(value)).item()
        at = min(max(self.end - position, 0), block.numel())
        if at in (0, block.numel()):
            return hardshrink(block, below if at else self.value)
        flat = block.view(-1)
        parts = [hardshrink(flat[:at], below), hardshrink(flat[at:], self.value)]
        return torch.cat(parts).view_as(block)

    def among(self, scores: Tensor, position: int) -> Tensor:
        """A mask of the scores in a block that are among the largest."""
        flat = scores.view(-1)
        at = min(max(self.end - position, 0), len(flat))
        return torch.cat([flat[:at] >= self.value, flat[at:] > self.value]).view_as(scores)


def magnitude(blocks: Sequence[Tensor]) -> Tensor:
    """The magnitudes of a single matrix, as scores that decide which entries are kept."""
    (block,) = blocks
    return block.abs()


def share_of(stack: Stack, share: float) -> int:
    """The number of entries that a share of each matrix has, rounded, and at least one."""
    return max(1, round(share * stack.size))


def cut(stack: Stack, score: Score, count: int) -> Cut:
    """Find the exact limit of the `count` largest scores; of equal scores, the first are taken.

    A random sample gives two values that the threshold lies between. One pass over the matrix
    counts the scores above both and collects those between. Where the sample was wrong, which
    happens once in 10^9 times, all scores are collected.
    """
    if count == 0:
        return Cut(math.inf, 0)
    if count >= stack.size:
        return Cut(0.0, stack.size)
    for low, high in (_bracket(stack, score, count), (0.0, math.inf)):
        above, scores, positions = _between(stack, score, low, high)
        if above < count <= above + len(scores):
            break
    return _cut_among(scores, positions, count - above)


def kept_largest(matrix: Float[Tensor, "m n"], share: float) -> Float[Tensor, "m n"]:
    """A small matrix in which only a share of the entries, the largest, is not replaced by zero."""
    scores = matrix.abs().flatten().numpy()
    count = max(1, round(share * len(scores)))
    if count >= len(scores):
        return matrix
    return _cut_among(scores, np.arange(len(scores)), count).trimmed(matrix.contiguous(), 0)


def _cut_among(scores: Scores, positions: Positions, count: int) -> Cut:
    """The limit of the `count` largest of these scores, whose positions are in rising order."""
    value = np.partition(scores, len(scores) - count)[len(scores) - count]
    equal = positions[scores == value]
    last = count - np.count_nonzero(scores > value) - 1
    return Cut(float(value), int(equal[last]) + 1)


def _bracket(stack: Stack, score: Score, count: int) -> tuple[float, float]:
    """Two values that the threshold lies between, except for one case in 10^9."""
    if stack.size <= 4 * _SAMPLE:
        return 0.0, math.inf
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(stack.size, (_SAMPLE,), generator=generator)
    sample = np.sort(score(stack.entries(positions.to(stack.ups[0].device))).cpu().numpy())
    share = 1 - count / stack.size
    margin = _DEVIATIONS * math.sqrt(_SAMPLE * share * (1 - share)) + _DEVIATIONS
    low, high = math.floor(share * _SAMPLE - margin), math.ceil(share * _SAMPLE + margin)
    return (
        sample[low].item() if low >= 0 else 0.0,
        sample[high].item() if high < _SAMPLE else math.inf,
    )


def _between(stack: Stack, score: Score, low: float, high: float) -> tuple[int, Scores, Positions]:
    """Count the scores above `high`; collect those from `low` to `high`, and their positions."""
    above, scores, positions = 0, [], []
    for position, blocks in stack.blocks():
        # numpy compares several times as fast as torch.
        flat = score(blocks).view(-1).cpu().numpy()
        greater = flat > high
        above += int(np.count_nonzero(greater))
        found = np.flatnonzero((flat >= low) ^ greater)
        scores.append(flat[found])
        positions.append(found + position)
    return above, np.concatenate(scores), np.concatenate(positions)
