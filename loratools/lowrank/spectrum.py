"""What the singular values of an update say about it."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@final
@dataclass(frozen=True)
class Spectrum:
    """What the singular values σ of an update say about it.

    Attributes:
        frobenius: its Frobenius norm, √Σσ².
        spectral: its spectral norm, the largest σ.
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
    """The summary of falling singular values of an update of a stored rank; all 0 for zero."""
    spectral = values[:1].sum().item()
    if not spectral:
        return Spectrum(0.0, 0.0, 0.0, 0.0, 0.0)
    ratios = values / spectral  # whose squares are numbers, however large or small the values are
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
