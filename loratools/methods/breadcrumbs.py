"""Model Breadcrumbs (Davari and Belilovsky, 2023, arXiv:2312.06795): neither outliers nor noise.

dW = λ · Σ wₜ·τₜ, with τₜ the update of adapter t without its largest entries, a share of γ, and
without so many of its smallest ones that a share of `density` is kept.
"""

from collections.abc import Sequence

from torch import Tensor

from loratools.errors import OptionError
from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import summed_weights, total
from loratools.methods._stack import Stack, cut, magnitude, share_of

OPTIONS: tuple[str, ...] = ("density", "gamma", "normalize", "lam")
LOW_RANK = False
#: The paper keeps the entries between the percentiles 85 and 99.
DENSITY, GAMMA = 0.14, 0.01


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Keep, of each update, a share of `density`: the largest entries after a share of `gamma`.

    Raises:
        OptionError: `density` and `gamma` add up to more than 1.
    """
    stack, factors = Stack.of(task), summed_weights(task, options)
    count, outliers = _counts(stack, options)
    numbers = range(len(factors))
    highs = [cut(stack.only(number), magnitude, outliers) for number in numbers]
    lows = [cut(stack.only(number), magnitude, outliers + count) for number in numbers]

    def merged(position: int, blocks: Sequence[Tensor]) -> Tensor:
        parts = []
        for low, high, block, factor in zip(lows, highs, blocks, factors, strict=True):
            kept = low.trimmed(block, position).sub_(high.trimmed(block, position))
            parts.append(kept.mul_(factor))
        return total(parts)

    return stack.changed(merged)


def _counts(stack: Stack, options: MethodOptions) -> tuple[int, int]:
    """The number of entries that are kept, and of larger ones that are removed.

    If both together exceed the matrix, fewer are removed.
    """
    density = options.density or DENSITY
    if options.gamma is not None and density + options.gamma > 1 + 1e-12:
        raise OptionError(
            f"a density of {density} leaves no room for a gamma of {options.gamma}, and "
            f"together they are at most 1"
        )
    count = share_of(stack, density)
    gamma = GAMMA if options.gamma is None else options.gamma
    return count, min(round(gamma * stack.size), stack.size - count)
