"""TIES (Yadav et al., 2023, arXiv:2306.01708): trim, elect signs, average those that agree.

With τₜ the update of adapter t without its smallest entries, times its weight:
σ = sgn(Σₜ τₜ), and dW = λ · the mean of the τₜ with sign σ, entry by entry; 0 where σ is 0.
"""

from collections.abc import Sequence

from torch import Tensor

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import elected, scaled_weights
from loratools.methods._stack import Stack, cut, magnitude, share_of

OPTIONS: tuple[str, ...] = ("density", "majority_sign_method", "normalize", "lam")
LOW_RANK = False
#: The default: the paper's "top-20%".
DENSITY = 0.2


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Trim each update to a share of `density`, the largest magnitudes; then elect signs."""
    stack = Stack.of(task)
    count = share_of(stack, options.density or DENSITY)
    cuts = [cut(stack.only(number), magnitude, count) for number in range(len(task.weights))]
    factors = scaled_weights(task, options)

    def merged(position: int, blocks: Sequence[Tensor]) -> Tensor:
        trimmed = [
            each.trimmed(block, position).mul_(factor)
            for each, block, factor in zip(cuts, blocks, factors, strict=True)
        ]
        return elected(trimmed, options)

    return stack.changed(merged)
