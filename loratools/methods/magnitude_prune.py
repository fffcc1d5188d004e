"""Magnitude pruning (Han et al., 2015, arXiv:1506.02626), then the weighted sum.

dW = λ · Σ wₜ·τₜ, with τₜ the update of adapter t without its smallest entries. It is TIES without
the election of signs.
"""

from collections.abc import Sequence

from torch import Tensor

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import summed_weights, total
from loratools.methods._stack import Stack, cut, magnitude, share_of

OPTIONS: tuple[str, ...] = ("density", "normalize", "lam")
LOW_RANK = False
DENSITY = 0.2


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Keep a share of `density` of each update's entries, those of the largest magnitudes."""
    stack, factors = Stack.of(task), summed_weights(task, options)
    count = share_of(stack, options.density or DENSITY)
    cuts = [cut(stack.only(number), magnitude, count) for number in range(len(factors))]

    def merged(position: int, blocks: Sequence[Tensor]) -> Tensor:
        kept = zip(cuts, blocks, factors, strict=True)
        return total([each.trimmed(block, position).mul_(factor) for each, block, factor in kept])

    return stack.changed(merged)
