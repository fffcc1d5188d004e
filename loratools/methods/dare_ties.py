"""DARE (Yu et al., 2023, arXiv:2311.03099), then the election and the mean of TIES.

Entries are dropped at random in place of TIES' trimming: τₜ = wₜ · mₜ ∘ dWₜ / density, with mₜ
Bernoulli(density); σ = sgn(Σₜ τₜ); dW = λ · the mean of the τₜ that have the sign σ.
"""

from torch import Tensor

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import elected, scaled_weights
from loratools.methods._dropping import Dare
from loratools.methods._stack import Stack

OPTIONS: tuple[str, ...] = ("density", "rescale", "majority_sign_method", "normalize", "lam")
LOW_RANK = False


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Keep each entry of each update with a probability of `density`, then elect signs."""
    factors = scaled_weights(task, options)
    dare = Dare.of(task, options)
    return Stack.of(task).changed(lambda _, blocks: elected(dare.dropped(blocks, factors), options))
