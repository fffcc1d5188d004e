"""DARE (Yu et al., 2023, arXiv:2311.03099), then the weighted sum: drop at random and rescale.

dW = λ · Σ wₜ·τₜ, with τₜ = mₜ ∘ dWₜ / density and mₜ Bernoulli(density), so that the expectation
of τₜ is dWₜ. (The paper's drop rate p is 1 - density.)
"""

from torch import Tensor

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import summed_weights, total
from loratools.methods._dropping import Dare
from loratools.methods._stack import Stack

OPTIONS: tuple[str, ...] = ("density", "rescale", "normalize", "lam")
LOW_RANK = False


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Keep each entry of each update with a probability of `density`, and add up the rest."""
    factors = summed_weights(task, options)
    dare = Dare.of(task, options)
    return Stack.of(task).changed(lambda _, blocks: total(dare.dropped(blocks, factors)))
