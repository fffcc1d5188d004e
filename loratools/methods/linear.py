"""The weighted sum, dW = Σ wᵢ·dWᵢ (task arithmetic: Ilharco et al., 2022, arXiv:2212.04089)."""

from loratools.methods import MethodOptions, Task

OPTIONS: tuple[str, ...] = ()
LOW_RANK = True


def combine(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The weights themselves: the sum is exact, as concatenated factors."""
    return task.weights
