"""Matrices given by their factors, formed a block of rows at a time, in float32.

Blocks stay in a core's cache, and forming them again is cheaper than keeping them. So a method
that works entry by entry needs memory for its result, and for a few blocks.
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

#: A quarter of a million elements of float32, of several matrices, stay in a core's cache.
_BLOCK = 2**18
#: The squares of such entries, and sums of a few of them, are numbers in float32.
_LARGEST = 1e18
#: So many entries, drawn at random, tell where a threshold is; a small matrix is sorted instead.
_SAMPLE = 2**16
#: The sample misses a threshold by more standard deviations than this once in 10^9 times.
_DEVIATIONS = 6

#: What is made of one block of all matrices; the number is the position of its first entry.
Change = Callable[[int, Sequence[Tensor]], Tensor]
Scores = NDArray[np.floating[Any]]
Positions = NDArray[np.int64]
#: A number above or equal to zero for each entry of a block.
Score = Callable[[Sequence[Tensor]], Tensor]


@final
@dataclass(frozen=True, eq=False)
class Stack:
    """Matrices of one shape; positions count entries row by row."""

    shape: tuple[int, int]
    ups: tuple[Float[Tensor, "m _"], ...]
    downs: tuple[Float[Tensor, "_ n"], ...]

    @classmethod
    def of(cls, task: Task) -> "Stack":
        """The updates of a task, without their weights.

        Raises:
            NonFiniteError: float32 does not hold the squares of their entries.
        """
        for update, weight in zip(task.updates, task.weights, strict=True):
            entries = update.up.abs().amax(0) @ update.down.abs().amax(1)
            if abs(weight) * float(entries) > _LARGEST:
                raise NonFiniteError(
                    f"{shorten(task.target)}: an update is too large to be combined entry by "
                    f"entry: above {_LARGEST}"
                )
        narrow = [update.to(torch.float32, task.device) for update in task.updates]
        return cls(
            task.updates[0].shape,
            tuple(update.up for update in narrow),
            tuple(update.down for update in narrow),
        )

    @property
    def size(self) -> int:
        """The number of entries of each."""
        return math.prod(self.shape)

    def only(self, number: int) -> "Stack":
        """One of them."""
        return Stack(self.shape, (self.ups[number],), (self.downs[number],))

    def blocks(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Rows of all of them, the same at each call, with the position of their first entry."""
        m, n = self.shape
        rows = max(1, _BLOCK // max(n, 1))
        for at in range(0, m, rows):
            pairs = zip(self.ups, self.downs, strict=True)
            yield at * n, [up[at : at + rows] @ down for up, down in pairs]

    def entries(self, positions: Tensor) -> list[Tensor]:
        """Those at some positions, up to the rounding of sums."""
        rows, columns = positions // self.shape[1], positions % self.shape[1]
        pairs = zip(self.ups, self.downs, strict=True)
        return [(up[rows] * down.T[columns]).sum(1) for up, down in pairs]

    def changed(self, change: Change) -> Float[Tensor, "m n"]:
        """A matrix that is made block by block."""
        result = self.ups[0].new_empty(self.shape)
        flat = result.view(-1)
        for position, blocks in self.blocks():
            flat[position : position + blocks[0].numel()] = change(position, blocks).view(-1)
        return result


@final
@dataclass(frozen=True)
class Cut:
    """Where the largest entries end: those above `value`, and equal ones before `end`."""

    value: float
    end: int

    def trimmed(self, block: Tensor, position: int) -> Tensor:
        """A block with zeros for all entries whose magnitudes are not among the largest."""
        value = torch.tensor(self.value, dtype=block.dtype)
        below = value.nextafter(-torch.ones_like(value)).item()
        at = min(max(self.end - position, 0), block.numel())
        if at in (0, block.numel()):
            return hardshrink(block, below if at else self.value)
        flat = block.view(-1)
        parts = [hardshrink(flat[:at], below), hardshrink(flat[at:], self.value)]
        return torch.cat(parts).view_as(block)

    def among(self, scores: Tensor, position: int) -> Tensor:
        """For each score of a block, whether it is among the largest."""
        flat = scores.view(-1)
        at = min(max(self.end - position, 0), len(flat))
        return torch.cat([flat[:at] >= self.value, flat[at:] > self.value]).view_as(scores)


def magnitude(blocks: Sequence[Tensor]) -> Tensor:
    """The score of a single matrix by which small entries are cut off."""
    (block,) = blocks
    return block.abs()


def share_of(stack: Stack, share: float) -> int:
    """So many entries of each matrix, rounded, and at least one."""
    return max(1, round(share * stack.size))


def cut(stack: Stack, score: Score, count: int) -> Cut:
    """Where the `count` largest scores end, exactly; of equal ones the first ones count.

    A sample says between which two values the threshold is. One pass counts what is above them
    and collects what is between.
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
    """A small matrix with zeros for all but a share of its entries, of the largest magnitudes."""
    scores = matrix.abs().flatten().numpy()
    count = max(1, round(share * len(scores)))
    if count >= len(scores):
        return matrix
    return _cut_among(scores, np.arange(len(scores)), count).trimmed(matrix.contiguous(), 0)


def _cut_among(scores: Scores, positions: Positions, count: int) -> Cut:
    """Where the `count` largest of these end; positions rise."""
    value = np.partition(scores, len(scores) - count)[len(scores) - count]
    equal = positions[scores == value]
    last = count - np.count_nonzero(scores > value) - 1
    return Cut(float(value), int(equal[last]) + 1)


def _bracket(stack: Stack, score: Score, count: int) -> tuple[float, float]:
    """Two values between which the threshold is, but for one case in 10^9."""
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
    """How many scores are above both, and those between, with their positions."""
    above, scores, positions = 0, [], []
    for position, blocks in stack.blocks():
        flat = score(blocks).view(-1).cpu().numpy()  # which compares several times as fast
        greater = flat > high
        above += int(np.count_nonzero(greater))
        found = np.flatnonzero((flat >= low) ^ greater)
        scores.append(flat[found])
        positions.append(found + position)
    return above, np.concatenate(scores), np.concatenate(positions)
