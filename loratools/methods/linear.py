"""The weighted sum: task arithmetic (Ilharco et al., 2022, arXiv:2212.04089).

dW = λ · Σ wₜ·dWₜ.
"""

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import summed_weights

OPTIONS: tuple[str, ...] = ("normalize", "lam")
LOW_RANK = True


def combine(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The weights, divided by their sum with `normalize`.

    A weighted sum of updates is exact: its factors are the concatenated factors.
    """
    return summed_weights(task, options)
