"""The leading right singular vectors of a matrix of any height, which is only read in blocks.

`dense.leading` keeps both factors in memory. Here the tall one, X V, is handed to a callback. If it
is large, each block is handed over as it is computed, so that memory depends on the width and the
rank alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from loratools.errors import NonFiniteError
from loratools.lowrank.dense import iterated, leading
from loratools.lowrank.devices import ready
from loratools.lowrank.ranks import Wanted
from loratools.lowrank.row_blocks import RowBlocks
from loratools.lowrank.truncation import TargetSpectrum

#: A callback that takes some rows of X V: the number of the first, and the rows as the columns of a
#: matrix in float64.
Take = Callable[[int, Tensor], None]
#: The largest share of the best approximation's energy that may be missing.
_TOLERANCE = 1e-4
#: The most elements of X V that are kept in memory while the iteration finds V.
_ROOM = 2**21


@final
@dataclass(frozen=True, eq=False)
class Right:
    """The best approximation of X that was found: X V Vᵀ, where column i of X V has the norm σ_i.

    Attributes:
        shape: the shape of X.
        vectors: V, with orthonormal columns, in float64.
        values: σ, in the order of V: falling, as far as the iteration has converged.
        total: ‖X‖².
        missing: the estimated additional energy of the best approximation, as in `dense.Leading`.
        unsure: the largest error of the lost energy, computed as `total` less the squares of
            `values`: at most 2e-3 of it, so that its root is correct to a thousandth. 0 where it is
            correct up to rounding in float64.
    """

    shape: tuple[int, int]
    vectors: Float[Tensor, "n k"]
    values: Float[Tensor, " k"]
    total: float
    missing: float
    unsure: float = 0.0

    def spectrum(self) -> TargetSpectrum:
        """The singular values and the energy, as a rule for ranks takes them."""
        return TargetSpectrum(*self.shape, self.values.numpy(), self.total)


def right_vectors(
    matrix: RowBlocks,
    wanted: Wanted,
    take: Take,
    *,
    seed: int,
    device: torch.device | None = None,
) -> Right:
    """Find at least as many leading right singular vectors as wanted; `take` gets X V.

    The lost energy is certified however well the iteration converged: by its own products X V, or,
    if those are too imprecise for so small a loss, or too large to be kept, by one more pass over
    the matrix in float64. The same seed, blocks and machine give the same bytes.

    Raises:
        NonFiniteError: the matrix has a NaN or an infinity.
    """
    device = ready(device)
    found = iterated(matrix, wanted, seed=seed, tolerance=_TOLERANCE, device=device, room=_ROOM)
    if found is None:
        vectors = leading(matrix, wanted, seed=seed, device=device).down.T.to(device)
        return _projected_on(matrix, torch.linalg.qr(vectors).Q, 0.0, take)
    vectors, triangle = torch.linalg.qr(found.vectors)
    if found.rows is None:
        return _projected_on(matrix, vectors, found.missing, take)
    # The vectors are made orthonormal to float64's rounding, and X V changes with them:
    # vectors = found.vectors R⁻¹, so (X V)ᵀ is multiplied with R⁻ᵀ.
    rows = torch.linalg.solve_triangular(triangle.T, found.rows, upper=False).cpu()
    take(0, rows)
    values = torch.linalg.vector_norm(rows, dim=1)
    return Right(matrix.shape, vectors.cpu(), values, found.total, found.missing, found.unsure)


def _projected_on(
    matrix: RowBlocks, vectors: Float[Tensor, "n k"], missing: float, take: Take
) -> Right:
    """Compute X V in float64 for orthonormal vectors V, and hand each block of it to `take`."""
    across = vectors.T.contiguous()
    squares = vectors.new_zeros(len(across))
    total = 0.0
    for begin, block in matrix.wide(vectors.device):
        rows = across @ block.T
        squares += rows.square().sum(1)
        total += torch.dot(block.view(-1), block.view(-1)).item()
        take(begin, rows.cpu())
    if not torch.isfinite(squares.sum() + total):
        raise NonFiniteError(
            "the matrix has a NaN or an infinity", hint="repair or leave out the tensor"
        )
    return Right(matrix.shape, vectors.cpu(), squares.sqrt().cpu(), total, missing)
