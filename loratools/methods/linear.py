"""The weighted sum: task arithmetic (Ilharco et al., 2022, arXiv:2212.04089).

dW = λ · Σ wₜ·dWₜ.
"""

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import summed_weights

OPTIONS: tuple[str, ...] = ("normalize", "lam")
LOW_RANK = True


def combine(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The weights themselves, or shares of them: the sum is exact, as concatenated factors."""
    return summed_weights(task, options)
