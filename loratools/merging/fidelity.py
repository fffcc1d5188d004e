"""How much of an update survives when its weight is rounded, measured on every element."""

import math
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from loratools.merging.taken_back import TakenBack

#: Between these, a sum of squares in float32 has lost nothing that matters to over- or underflow.
_LEAST_SUM, _MOST_SUM = 2.0**-64, 2.0**100


@final
@dataclass(frozen=True, repr=False)
class Fidelity:
    """How much of an update survived the rounding, as sums over elements.

    `error` is ‖realised - intended‖², `intended` is ‖intended‖² and `product` their inner product
    ⟨realised, intended⟩, where the intended update is the computed weight minus the base's, and
    the realised one the rounded weight minus the base's. `moved` says whether any number is another
    than it would be without the update. `taken_back` counts the elements that an update is taken
    out of; None if there are none, or if they were not counted.
    """

    error: float = 0.0
    intended: float = 0.0
    product: float = 0.0
    moved: bool = False
    taken_back: TakenBack | None = None

    def __repr__(self) -> str:
        """What the sums mean, instead of the sums."""
        return f"<Fidelity: relative error {self.relative_error:.3g}, cosine {self.cosine:.6f}>"

    def __add__(self, other: "Fidelity") -> "Fidelity":
        """The sums over the elements of both."""
        return Fidelity(
            self.error + other.error,
            self.intended + other.intended,
            self.product + other.product,
            self.moved or other.moved,
            _sum(self.taken_back, other.taken_back),
        )

    @property
    def is_finite(self) -> bool:
        """Whether all numbers that were measured are finite."""
        return math.isfinite(self.error)

    @property
    def is_in_range(self) -> bool:
        """Whether sums that were computed in float32 have lost nothing to over- or underflow."""
        return _LEAST_SUM < self.intended < _MOST_SUM and self.error < _MOST_SUM

    @property
    def relative_error(self) -> float:
        """‖realised - intended‖ / ‖intended‖; 0 for an update of zero."""
        return math.sqrt(self.error / self.intended) if self.intended else 0.0

    @property
    def kept(self) -> float:
        """The length of the realised update along the intended one, as a share; 1 for zero."""
        return self.product / self.intended if self.intended else 1.0

    @property
    def cosine(self) -> float:
        """The cosine between both updates; 1 for an update of zero, 0 for one wholly lost."""
        # ‖realised‖², from the expansion of ‖realised - intended‖².
        realised = self.error - self.intended + 2 * self.product
        if not self.intended:
            return 1.0
        if realised <= 0:
            return 0.0
        return min(1.0, self.product / math.sqrt(realised * self.intended))


def _sum(one: TakenBack | None, other: TakenBack | None) -> TakenBack | None:
    return one + other if one and other else one or other


def measure(
    before: Float[Tensor, "rows columns"],
    rounded: Float[Tensor, "rows columns"],
    vectors: Float[Tensor, "2 rows columns"],
    *,
    moved: bool,
) -> Fidelity:
    """The sums over all elements, and not over a sample: an update may be in any few of them.

    `vectors[0]` is the intended update; `vectors[1]` is overwritten with the error. The sums are
    added up in the dtype of `vectors`, a few units of its last bit off.
    """
    update, error = vectors
    # The computed weight is not used: as a sum of a weight and a far smaller update, it has been
    # rounded itself.
    error.copy_(rounded).sub_(before).sub_(update)
    sums = _sums(vectors, moved=moved)
    if not sums.is_in_range and vectors.any():
        return _sums(vectors.double(), moved=moved)
    return sums


def _sums(vectors: Float[Tensor, "2 rows columns"], *, moved: bool) -> Fidelity:
    flat = vectors.flatten(1)
    # One product is faster than three dot products, and as exact. The realised update is the
    # intended one plus the error, so its product with the intended is the sum below.
    (intended, product), (_, error) = (flat @ flat.T).tolist()
    return Fidelity(error, intended, intended + product, moved)
