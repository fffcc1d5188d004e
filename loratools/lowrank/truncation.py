"""What is known of an update's singular values σ, and what a truncation of it keeps.

Energy is Σσ². Values are those of the true update, scaling included, so that targets compare.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


@final
@dataclass(frozen=True, eq=False)
class TargetSpectrum:
    """What a rule has to know of an m × n update.

    Attributes:
        values: its singular values, falling; all of them, or the leading ones.
        energy: of the whole update; None where `values` are all of them.
    """

    m: int
    n: int
    values: Floats
    energy: float | None = None

    @property
    def cost(self) -> int:
        """The stored elements of one rank."""
        return self.m + self.n

    @cached_property
    def squares(self) -> Floats:
        """σ² of the values that are not zero up to rounding: as many as the numerical rank."""
        values = self.values[: min(self.m, self.n)]
        noise = _EPS * max(self.m, self.n) * values[:1].sum()
        squares: Floats = np.square(values[values > noise])
        return squares

    @cached_property
    def unknown(self) -> float:
        """The energy beyond the known values; 0 where it is rounding."""
        if self.energy is None or len(self.values) >= min(self.m, self.n):
            return 0.0
        rest = self.energy - float(np.square(self.values).sum())
        return rest if rest > _EPS * max(self.m, self.n) * self.energy else 0.0

    @cached_property
    def lost(self) -> Floats:
        """`lost[r]` is the energy beyond rank r, for 0 to all known; summed from the small end."""
        return np.cumsum(np.append(self.unknown, self.squares[::-1]))[::-1]

    def truncation(self, rank: int) -> "Truncation":
        """The certificate of its best approximation of a rank."""
        return Truncation(rank, self.lost[0].item(), self.lost[: rank + 1][-1].item())


@final
@dataclass(frozen=True)
class Truncation:
    """What a truncation keeps: a certificate.

    Attributes:
        rank: how many ranks are stored.
        total: the energy before.
        lost: the energy cut off, which is the squared Frobenius error.
    """

    rank: int
    total: float
    lost: float

    @property
    def energy(self) -> float:
        """The share that is kept; 1 of nothing."""
        return 1 - self.lost / self.total if self.total else 1.0

    @property
    def error(self) -> float:
        """The relative Frobenius error."""
        return math.sqrt(self.lost / self.total) if self.total else 0.0


def together(truncations: Iterable[Truncation]) -> Truncation:
    """That of many updates seen as one: ranks and energies add up."""
    items = list(truncations)
    return Truncation(
        sum(item.rank for item in items),
        math.fsum(item.total for item in items),
        math.fsum(item.lost for item in items),
    )
