"""DARE (Yu et al., 2023, arXiv:2311.03099), then the weighted sum: drop at random and rescale.

dW = λ · Σ wₜ·τₜ, with τₜ = mₜ ∘ dWₜ / density and mₜ Bernoulli(density): its expectation is that
of the updates. (The paper's drop rate p is 1 - density.)
"""

from torch import Tensor

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import summed_weights, total
from loratools.methods._dropping import Dare
from loratools.methods._stack import Stack

OPTIONS: tuple[str, ...] = ("density", "rescale", "normalize", "lam")
LOW_RANK = False


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Each entry of each update is kept with a probability of `density`."""
    factors = summed_weights(task, options)
    dare = Dare.of(task, options)
    return Stack.of(task).changed(lambda _, blocks: total(dare.dropped(blocks, factors)))
