"""A summary of an update's singular values: norms and effective ranks."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True)
class Spectrum:
    """A summary of the singular values σ of an update.

    Attributes:
        frobenius: the Frobenius norm of the update, √Σσ².
        spectral: the spectral norm of the update, the largest σ.
        stable_rank: ‖·‖²_F / σ₁², at most the rank.
        effective_rank: exp of the entropy of σ / Σσ (Roy and Vetterli, 2007).
        half_energy: the share of Σσ² in the larger half of the stored rank.
    """

    frobenius: float
    spectral: float
    stable_rank: float
    effective_rank: float
    half_energy: float


def spectrum_of(values: Float[Tensor, " values"], rank: int) -> Spectrum:
    """Summarise the falling singular values of an update with this stored rank.

    Every number is 0 for an update that is zero.
    """
    spectral = values[:1].sum().item()
    if not spectral:
        return Spectrum(0.0, 0.0, 0.0, 0.0, 0.0)
    # Squares of these ratios neither overflow nor vanish, however large or small the values are.
    ratios = values / spectral
    energy = ratios.square().sum().item()
    shares = ratios / ratios.sum()
    entropy = -torch.special.xlogy(shares, shares).sum().item()
    half = ratios[: -(-rank // 2)].square().sum().item()
    return Spectrum(
        frobenius=spectral * math.sqrt(energy),
        spectral=spectral,
        stable_rank=energy,
        effective_rank=math.exp(entropy),
        half_energy=half / energy,
    )
