"""The known singular values σ of an update, and certificates of truncating it.

Energy is Σσ². The singular values include the update's scaling, so that targets can be compared.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from loratools.showing.parts import percentage

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


@final
@dataclass(frozen=True, eq=False)
class TargetSpectrum:
    """The singular values of an m × n update, as far as they are known, for a rule to choose by.

    Attributes:
        values: falling; all singular values of the update, or the leading ones.
        energy: the energy of the whole update; None if `values` holds all singular values.
    """

    m: int
    n: int
    values: Floats
    energy: float | None = None

    @property
    def cost(self) -> int:
        """The number of elements that are stored for each rank."""
        return self.m + self.n

    @cached_property
    def squares(self) -> Floats:
        """The squares of the values that are not zero up to rounding."""
        values = self.values[: min(self.m, self.n)]
        noise = _EPS * max(self.m, self.n) * values[:1].sum()
        squares: Floats = np.square(values[values > noise])
        return squares

    @cached_property
    def unknown(self) -> float:
        """The energy of the singular values that are not known; 0 if it may be rounding alone."""
        if self.energy is None or len(self.values) >= min(self.m, self.n):
            return 0.0
        rest = self.energy - float(np.square(self.values).sum())
        return rest if rest > _EPS * max(self.m, self.n) * self.energy else 0.0

    @cached_property
    def lost(self) -> Floats:
        """The energy lost at each rank: `lost[r]` is the energy beyond rank r, from r = 0 on.

        Summed from the smallest value up, so that small energies do not round away.
        """
        return np.cumsum(np.append(self.unknown, self.squares[::-1]))[::-1]

    def truncation(self, rank: int) -> "Truncation":
        """The certificate of the update's best approximation of this rank."""
        return Truncation(rank, self.lost[0].item(), self.lost[: rank + 1][-1].item())


@final
@dataclass(frozen=True, repr=False)
class Truncation:
    """The certificate of a truncation: how much energy it keeps, and how much it loses.

    Attributes:
        rank: the rank that is kept.
        total: the energy before the truncation.
        lost: the energy cut off, which is the squared Frobenius error.
    """

    rank: int
    total: float
    lost: float

    def __repr__(self) -> str:
        """The rank, and what it keeps."""
        return f"<Truncation: rank {self.rank}, {self.words}>"

    @property
    def energy(self) -> float:
        """The share of the energy that is kept; 1 for a zero update."""
        return 1 - self.lost / self.total if self.total else 1.0

    @property
    def error(self) -> float:
        """The relative Frobenius error of the truncation."""
        return math.sqrt(self.lost / self.total) if self.total else 0.0

    @property
    def words(self) -> str:
        """What is kept and what is lost, as reports say it."""
        return f"kept {percentage(self.energy)}% of the energy, relative error {self.error:.3g}"


def together(truncations: Iterable[Truncation]) -> Truncation:
    """The certificate of many truncations seen as one: ranks and energies add up."""
    items = list(truncations)
    return Truncation(
        sum(item.rank for item in items),
        math.fsum(item.total for item in items),
        math.fsum(item.lost for item in items),
    )
