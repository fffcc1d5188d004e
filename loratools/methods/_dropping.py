"""Dropping entries at random: which ones are dropped depends on the seed and the adapter alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from loratools.methods import MethodOptions, Task

#: The default density; the papers choose it by validation, from 0.1 to 0.9.
DENSITY = 0.5


class Stream:
    """Random numbers for the entries of one adapter's update, block after block.

    The numbers depend on the adapter's position among all adapters, so that no two share them.
    """

    def __init__(self, task: Task, number: int) -> None:
        self._generator = np.random.Philox(key=task.seed + (number << 64))

    def uniform(self, block: Tensor) -> Tensor:
        """Uniform multiples of 2⁻²⁴ from 0 to below 1, in the shape of the next block."""
        # Each raw number of 64 bits gives two of 32, of which float32 can hold 24 exactly.
        words = self._generator.random_raw((block.numel() + 1) // 2).view(np.int32)
        numbers = torch.from_numpy(words[: block.numel()]) >> 8  # from -2²³ to below 2²³
        return numbers.float().mul_(2.0**-24).add_(0.5).view(block.shape).to(block.device)


@final
@dataclass(frozen=True)
class Dare:
    """DARE's dropping: the random numbers of each update, and the probability to keep an entry."""

    streams: tuple[Stream, ...]
    density: float
    rescale: bool

    @classmethod
    def of(cls, task: Task, options: MethodOptions) -> "Dare":
        """The dropping for the updates of a task, with fresh random numbers."""
        streams = tuple(Stream(task, number) for number in range(len(task.weights)))
        return cls(streams, options.density or DENSITY, options.rescale is not False)

    def dropped(self, blocks: Sequence[Tensor], factors: Sequence[float]) -> list[Tensor]:
        """Drop entries of the next block of each update, and multiply each with its factor."""
        scale = 1 / self.density if self.rescale else 1.0
        return [
            (block * (stream.uniform(block) < self.density)).mul_(factor * scale)
            for stream, block, factor in zip(self.streams, blocks, factors, strict=True)
        ]
