"""KnOTS (Stoica et al., 2024, arXiv:2410.19735): TIES in a basis that all updates share.

With [w₁·dW₁ … wₙ·dWₙ] = U Σ [V₁ᵀ … Vₙᵀ], the aligned components are Cₜ = Σ Vₜᵀ, and
dW = U · TIES(C₁, …, Cₙ). The rank of dW is at most the sum of the ranks of all updates.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from loratools.lowrank.factored import Factored, triangle
from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import elected, scaled_weights
from loratools.methods._stack import kept_largest

OPTIONS: tuple[str, ...] = ("density", "majority_sign_method", "normalize", "lam")
LOW_RANK = True
#: The default, which trims nothing, as in the paper's own experiments with language models.
DENSITY = 1.0


def combine(task: Task, options: MethodOptions) -> Factored:
    """The shared basis and the merged components; only factors and small matrices are formed."""
    factors = scaled_weights(task, options)
    ups = torch.cat([up.up * f for up, f in zip(task.updates, factors, strict=True)], dim=1)
    downs = [update.down for update in task.updates]
    basis, core = torch.linalg.qr(ups)
    cores = core.split([len(down) for down in downs], dim=1)
    shared = _left_vectors(cores, downs)
    components = [shared.T @ each @ down for each, down in zip(cores, downs, strict=True)]
    density = options.density or DENSITY
    trimmed = [kept_largest(component, density) for component in components]
    return Factored(basis @ shared, elected(trimmed, options))


def _left_vectors(
    cores: Sequence[Float[Tensor, "k _"]], downs: Sequence[Float[Tensor, "_ n"]]
) -> Float[Tensor, "k r"]:
    """The left singular vectors of [core₁ down₁ … coreₙ downₙ] whose singular values are not 0.

    Values are compared with the rounding of the largest.
    """
    pairs = zip(cores, downs, strict=True)
    joined = torch.cat([core @ triangle(down.T).T for core, down in pairs], dim=1)
    u, values, _ = torch.linalg.svd(joined, full_matrices=False)
    eps = torch.finfo(torch.float64).eps * max(joined.shape + downs[0].shape)
    vectors: Tensor = u[:, values > eps * values[:1].sum()]
    return vectors
