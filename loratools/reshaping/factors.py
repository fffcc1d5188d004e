"""Low-rank updates made of others: weighted sums, truncated or padded.

The tensors of the results are computed when they are written, one at a time, from the stored
factors and small matrices. So nothing is read before, except for what a decomposition needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

from loratools.deltas.lora import LoRA, Rule, Scaling
from loratools.errors import NonFiniteError, listing
from loratools.io.computed import Computed
from loratools.io.dtypes import computed
from loratools.io.source import Held
from loratools.io.values import is_finite, widened

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from loratools.lowrank.factored import CoreSVD, Factored

    Compute = Callable[[Sequence[Tensor]], Tensor]

#: The largest entry or singular value of an update: sums of such squares do not overflow float64.
LARGEST = 1e140


@final
@dataclass(frozen=True)
class Sum:
    """A weighted sum of updates of one weight.

    Attributes:
        terms: the updates, each with the coefficient of its product `up @ down`, which includes its
            scaling.
        dtype: the dtype of the factors that are stored for the sum.
    """

    terms: tuple[tuple[float, LoRA], ...]
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight as a matrix."""
        _, lora = self.terms[0]
        return lora.up.shape[0], lora.down.shape[1]

    @property
    def rank(self) -> int:
        """The rank of the concatenated factors."""
        return sum(lora.rank for _, lora in self.terms)

    @property
    def scaling(self) -> float:
        """The scaling that the result is stored with: the largest coefficient, 1 if all are 0."""
        return max((coefficient for coefficient, _ in self.terms), key=abs) or 1.0

    def read(self) -> "Factored":
        """Read the sum as one product, in float64.

        Raises:
            NonFiniteError: the sum is so large that its norm may overflow.
        """
        from loratools.lowrank.factored import Factored

        ups, downs = self._read()
        self._check_size(ups, downs)
        return Factored(ups * self._coefficients(), downs)

    def svd(self) -> "CoreSVD":
        """The SVD of the sum, as small matrices to multiply onto the stored factors.

        Raises:
            NonFiniteError: a factor holds a NaN or an infinity, or the sum is too large.
        """
        from loratools.lowrank.factored import core_svd

        return core_svd(*self._finite())

    def values(self) -> "Tensor":
        """The singular values of the sum, falling, in float64.

        Raises:
            NonFiniteError: a factor holds a NaN or an infinity, or the sum is too large.
        """
        from loratools.lowrank.factored import singular_values

        return singular_values(*self._finite())

    def stored(self) -> "tuple[Tensor, Tensor, Tensor]":
        """The concatenated factors, in a dtype that holds all, and each column's coefficient."""
        ups = _joined([lora.up.read() for _, lora in self.terms], 1)
        downs = _joined([lora.down.read() for _, lora in self.terms], 0)
        return ups, downs, self._coefficients()

    def _finite(self) -> "tuple[Tensor, Tensor, Tensor]":
        ups, downs, coefficients = self.stored()
        if not (is_finite(ups) and is_finite(downs)):
            sources = [source for _, lora in self.terms for source in lora.sources]
            broken = [key for s in sources if not is_finite(s.read()) for key in s.keys]
            raise NonFiniteError(f"{listing(broken)}: holds a NaN or an infinity")
        self._check_size(ups, downs)
        return ups, downs, coefficients

    def _check_size(self, ups: "Tensor", downs: "Tensor") -> None:
        """Refuse sums whose norm may overflow, by the largest entry of each rank-1 product."""
        if not (ups.numel() and downs.numel()):
            return
        sizes = ups.abs().amax(0).double() * self._coefficients() * downs.abs().amax(1).double()
        if bool((sizes.abs() > LARGEST).any()):
            keys = [key for _, lora in self.terms for source in lora.sources for key in source.keys]
            raise NonFiniteError(f"{listing(keys)}: the update is too large: above {LARGEST}")

    def _read(self) -> "tuple[Tensor, Tensor]":
        ups = _side_by_side([lora.up.read() for _, lora in self.terms])
        return ups, _stacked([lora.down.read() for _, lora in self.terms])

    def _coefficients(self) -> "Tensor":
        """The coefficient of every column of the concatenated `up`, in float64."""
        import torch

        found = [torch.full((lora.rank,), c, dtype=torch.float64) for c, lora in self.terms]
        return torch.cat(found)

    def truncated(self, svd: "CoreSVD", rank: int) -> LoRA:
        """The best approximation of this rank; if the sum has a smaller one, zeros fill it up."""
        # The SVD includes the scaling, which is stored as well, so the factors are divided by it:
        # each by its root, so that both have the same norm.
        root = math.sqrt(abs(self.scaling))
        up = partial(
            _mixed_up, left=svd.left, scale=math.copysign(1, self.scaling) / root, rank=rank
        )
        down = partial(_mixed_down, right=svd.right, scale=1 / root, rank=rank)
        return self._lora(up, down, rank)

    def concatenated(self, rank: int | None = None) -> LoRA:
        """The exact sum: the concatenated factors, filled up with zeros to `rank` if it is given.

        The largest coefficient becomes the scaling, and `up` is multiplied with ratios to it. So
        nothing is rounded if all coefficients are equal.
        """
        rank = self.rank if rank is None else rank
        ratios = self._coefficients() / self.scaling
        _, first = self.terms[0]
        is_alone = len(self.terms) == 1 and rank == self.rank and bool((ratios == 1).all())
        if is_alone and {source.dtype for source in first.sources} == {self.dtype}:
            return replace(first, scaling=self._scaling(rank))
        up = partial(_scaled_up, ratios=ratios, rank=rank)
        return self._lora(up, partial(_padded_down, rank=rank), rank)

    def _lora(self, up: "Compute", down: "Compute", rank: int) -> LoRA:
        rows, columns = self.shape
        _, first = self.terms[0]
        return LoRA(
            up=Computed(tuple(lora.up for _, lora in self.terms), self.dtype, (rows, rank), up),
            down=Computed(
                tuple(lora.down for _, lora in self.terms), self.dtype, (rank, columns), down
            ),
            scaling=self._scaling(rank),
            shape=first.shape,
        )

    def _scaling(self, rank: int) -> Scaling:
        rules = {lora.scaling.rule for _, lora in self.terms}
        return scaling_of(self.scaling, rank, rules.pop() if len(rules) == 1 else "rank")


def sum_of(updates: Sequence[tuple[float, LoRA]]) -> Sum:
    """The sum of updates with weights, stored in a dtype that holds the factors of all.

    Raises:
        NonFiniteError: a weight times a scaling overflows float64.
    """
    terms = tuple((weight * lora.scaling.value, lora) for weight, lora in updates)
    for (coefficient, lora), (weight, _) in zip(terms, updates, strict=True):
        if not math.isfinite(coefficient):
            raise NonFiniteError(
                f"{listing(key for source in lora.sources for key in source.keys)}: a scaling of "
                f"{lora.scaling.value} times {weight} is no number"
            )
    return Sum(
        terms=terms,
        dtype=widest([source.dtype for _, lora in updates for source in lora.sources]),
    )


def held(product: "Factored", shape: tuple[int, ...]) -> LoRA:
    """An update with factors in memory and a scaling of 1, for a weight of this shape.

    Factors of rank 0 become zeros of rank 1.
    """
    rank = max(1, product.down.shape[0])
    up = Held("up", _padded(product.up, columns=rank), "F64")
    down = Held("down", _padded(product.down, rows=rank), "F64")
    return LoRA(up, down, scaling_of(1.0, rank, "rank"), shape)


def scaling_of(value: float, rank: int, rule: Rule) -> Scaling:
    """The scaling with this value by this rule, for factors of this rank; its alpha is derived."""
    unit = Scaling(1.0, rank, rule, "config")
    return replace(unit, alpha=value / unit.value)


def widest(dtypes: Sequence[str]) -> str:
    """The dtype that all have, or else one that holds each of them exactly; 16 bits or more."""
    dtypes = [computed(dtype) for dtype in dtypes]
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return "F64" if "F64" in dtypes else "F32"


def _joined(factors: "Sequence[Tensor]", dimension: int) -> "Tensor":
    import torch

    factors = [widened(factor) for factor in factors]
    return factors[0] if len(factors) == 1 else torch.cat(list(factors), dim=dimension)


def _side_by_side(ups: "Sequence[Tensor]") -> "Tensor":
    from loratools.lowrank.factored import wide

    return _joined([wide(up) for up in ups], 1)


def _stacked(downs: "Sequence[Tensor]") -> "Tensor":
    from loratools.lowrank.factored import wide

    return _joined([wide(down) for down in downs], 0)


def _mixed_up(ups: "Sequence[Tensor]", left: "Tensor", scale: float, rank: int) -> "Tensor":
    return _padded(_mixed(ups, left[:, :rank]).mul_(scale), columns=rank)


def _mixed_down(downs: "Sequence[Tensor]", right: "Tensor", scale: float, rank: int) -> "Tensor":
    return _padded((right[:rank] @ _stacked(downs)).mul_(scale), rows=rank)


def _mixed(ups: "Sequence[Tensor]", onto: "Tensor") -> "Tensor":
    """The concatenated factors times a matrix, in float64, with only some rows converted at a time.

    The concatenation is never formed: it would be as large as all tall factors together.
    """
    import torch

    from loratools.lowrank.factored import wide_product

    parts = torch.split(onto, [up.shape[1] for up in ups])
    mixed = [wide_product(up, part) for up, part in zip(ups, parts, strict=True)]
    return sum(mixed[1:], mixed[0])


def _scaled_up(ups: "Sequence[Tensor]", ratios: "Tensor", rank: int) -> "Tensor":
    return _padded(_side_by_side(ups) * ratios, columns=rank)


def _padded_down(downs: "Sequence[Tensor]", rank: int) -> "Tensor":
    return _padded(_stacked(downs), rows=rank)


def _padded(matrix: "Tensor", *, rows: int | None = None, columns: int | None = None) -> "Tensor":
    """A matrix padded with zeros, below or to the right, to this number of rows or columns."""
    import torch

    below = (rows or matrix.shape[0]) - matrix.shape[0]
    right = (columns or matrix.shape[1]) - matrix.shape[1]
    return torch.nn.functional.pad(matrix, (0, right, 0, below)) if below or right else matrix
