"""Entries that are dropped at random: which ones depends on the seed and the adapter alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from loratools.methods import MethodOptions, Task

#: Where no density is given; the papers choose it by validation, from 0.1 to 0.9.
DENSITY = 0.5
_HALF = 2**31


class Stream:
    """Random numbers for the entries of one adapter's update, block after block.

    Another adapter, and the same at another place among them, has others.
    """

    def __init__(self, task: Task, number: int) -> None:
        self._generator = np.random.Philox(key=task.seed + (number << 64))

    def below(self, probability: float | Tensor, block: Tensor) -> Tensor:
        """A mask for a block, true with these probabilities, which are rounded to 32 bits."""
        words = self._generator.random_raw((block.numel() + 1) // 2).view(np.int32)
        numbers = torch.from_numpy(words[: block.numel()]).view(block.shape).to(block.device)
        # The numbers are from -2³¹ on.
        if isinstance(probability, Tensor):
            return numbers < (probability.double() * (2 * _HALF)).round_() - _HALF
        return numbers < round(probability * (2 * _HALF)) - _HALF


@final
@dataclass(frozen=True)
class Dare:
    """The random numbers of each update, and the probability to keep an entry."""

    streams: tuple[Stream, ...]
    density: float
    rescale: bool

    @classmethod
    def of(cls, task: Task, options: MethodOptions) -> "Dare":
        """For a task."""
        streams = tuple(Stream(task, number) for number in range(len(task.weights)))
        return cls(streams, options.density or DENSITY, options.rescale is not False)

    def dropped(self, blocks: Sequence[Tensor], factors: Sequence[float]) -> list[Tensor]:
        """What is kept of the blocks that come next, each with its factor."""
        scale = 1 / self.density if self.rescale else 1.0
        return [
            (block * stream.below(self.density, block)).mul_(factor * scale)
            for stream, block, factor in zip(self.streams, blocks, factors, strict=True)
        ]
