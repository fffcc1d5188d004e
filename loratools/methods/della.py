"""DELLA (Deep et al., 2024, arXiv:2406.11617): drop small entries more often, elect, average.

Within each row of n entries, the entry with rank r, counted from 0 by rising magnitude, is kept
with probability p = density - ε/2 + ε·r/(n - 1), and then divided by p (MagPrune). The results are
multiplied with the weights; then a sign is elected and the values with this sign are averaged, as
in TIES. dW = λ · this mean.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loratools.errors import OptionError
from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import elected, scaled_weights
from loratools.methods._dropping import DENSITY, Stream
from loratools.methods._stack import Stack

OPTIONS: tuple[str, ...] = (
    "density",
    "epsilon",
    "rescale",
    "majority_sign_method",
    "normalize",
    "lam",
)
LOW_RANK = False
#: The default, which gives probabilities from 0.4 to 0.6 at the default density; less where a
#: density leaves no room for it.
EPSILON = 0.2


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Keep each entry with a probability that rises with its magnitude's rank in its row.

    Raises:
        OptionError: `epsilon` leads to probabilities outside of 0 to 1.
    """
    least, window = _probabilities(options)
    streams = [Stream(task, number) for number in range(len(task.weights))]
    factors = scaled_weights(task, options)

    def merged(_: int, blocks: Sequence[Tensor]) -> Tensor:
        kept = []
        for stream, block, factor in zip(streams, blocks, factors, strict=True):
            probability = least + window * _ranks(block)
            dropped = block * (stream.uniform(block) < probability)
            if options.rescale is not False:
                dropped /= probability
            kept.append(dropped.mul_(factor))
        return elected(kept, options)

    return Stack.of(task).changed(merged)


def _probabilities(options: MethodOptions) -> tuple[float, float]:
    """The smallest probability to keep an entry, and the difference of the largest from it."""
    density = options.density or DENSITY
    epsilon = options.epsilon
    if epsilon is None:
        epsilon = min(EPSILON, density, 2 * (1 - density))
    least, most = density - epsilon / 2, density + epsilon / 2
    if least <= 0 or most > 1:
        raise OptionError(
            f"an epsilon of {epsilon} around a density of {density} gives probabilities from "
            f"{least} to {most}, and they have to be above 0 and at most 1"
        )
    return least, epsilon


def _ranks(block: Tensor) -> Tensor:
    """The rank of each magnitude in its row, from 0 to 1; of equal ones, the first ranks lower."""
    rows, columns = block.shape
    if columns == 1:
        return torch.full_like(block, 0.5)
    # The bits of a float without its sign, read as an integer, are in the order of magnitudes.
    # numpy sorts 16-bit integers by radix, several times as fast as floats: stably by the lower
    # half of the bits first, then by the upper half.
    bits = block.abs().cpu().numpy().view(np.uint32)
    order = bits.astype(np.uint16).argsort(axis=1, kind="stable")
    upper = np.take_along_axis((bits >> 16).astype(np.uint16), order, axis=1)
    order = np.take_along_axis(order, upper.argsort(axis=1, kind="stable"), axis=1)
    ranks = torch.linspace(0, 1, columns).expand(rows, columns)
    return torch.empty(rows, columns).scatter_(1, torch.from_numpy(order), ranks).to(block.device)
