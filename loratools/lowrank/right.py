"""The leading right singular vectors of a matrix of any height, which is only read in blocks.

`dense.leading` holds both factors. Here the tall one, X V, is handed out as it is computed, so that
memory depends on the width and the rank alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from loratools.errors import NonFiniteError
from loratools.lowrank.dense import iterated, leading
from loratools.lowrank.ranks import Wanted
from loratools.lowrank.rows import RowBlocks
from loratools.lowrank.truncation import TargetSpectrum

#: Takes rows of X V, from a row on, as the columns of a matrix in float64.
Take = Callable[[int, Tensor], None]
#: At most this share of the energy that the best approximation has is missing.
_TOLERANCE = 1e-4


@final
@dataclass(frozen=True, eq=False)
class Right:
    """The best approximation found: X V Vᵀ, where column i of X V has the norm σ_i.

    Attributes:
        shape: of X.
        vectors: V, with orthonormal columns, in float64.
        values: σ, as they come with V: they fall, up to the convergence of the iteration.
        total: ‖X‖².
        missing: as in `dense.Leading`.
    """

    shape: tuple[int, int]
    vectors: Float[Tensor, "n k"]
    values: Float[Tensor, " k"]
    total: float
    missing: float

    def spectrum(self) -> TargetSpectrum:
        """What a rule for ranks has to know."""
        return TargetSpectrum(*self.shape, self.values.numpy(), self.total)


def right_vectors(
    matrix: RowBlocks,
    wanted: Wanted,
    take: Take,
    *,
    seed: int,
    device: torch.device | None = None,
) -> Right:
    """The leading right singular vectors, at least as many as wanted; `take` gets the rows of X V.

    Energies are sums of what the last pass over the matrix finds in float64, whatever the iteration
    did. The same seed, blocks and machine give the same bytes.

    Raises:
        NonFiniteError: the matrix has a NaN or an infinity.
    """
    vectors, missing = _vectors(matrix, wanted, seed, device or torch.device("cpu"))
    across = vectors.T.contiguous()
    norms = vectors.new_zeros(len(across))
    total = 0.0
    for begin, block in matrix.wide(vectors.device):
        rows = across @ block.T
        norms += rows.square().sum(1)
        total += torch.dot(block.view(-1), block.view(-1)).item()
        take(begin, rows.cpu())
    if not torch.isfinite(norms.sum() + total):
        raise NonFiniteError("the matrix has a NaN or an infinity; repair or leave out the tensor")
    return Right(matrix.shape, vectors.cpu(), norms.sqrt().cpu(), total, missing)


def _vectors(
    matrix: RowBlocks, wanted: Wanted, seed: int, device: torch.device
) -> tuple[Tensor, float]:
    """Orthonormal columns, and the energy that they are thought to miss."""
    found = iterated(matrix, wanted, seed=seed, tolerance=_TOLERANCE, device=device)
    if found is None:
        found = leading(matrix, wanted, seed=seed, device=device).down.T.to(device), 0.0
    vectors, missing = found
    return torch.linalg.qr(vectors).Q, missing
