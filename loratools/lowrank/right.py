"""The leading right singular vectors of a matrix of any height, which is only read in blocks.

`dense.leading` holds both factors. Here the tall one, X V, is handed out; where it is large, as it
is computed, so that memory depends on the width and the rank alone.
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
from loratools.lowrank.row_blocks import RowBlocks
from loratools.lowrank.truncation import TargetSpectrum

#: Takes rows of X V, from a row on, as the columns of a matrix in float64.
Take = Callable[[int, Tensor], None]
#: At most this share of the energy that the best approximation has is missing.
_TOLERANCE = 1e-4
#: Elements of X V that are held while the iteration finds V.
_ROOM = 2**21


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
        unsure: how far `total` less the squares of `values` can be from what is lost: 2e-3 of that
            at most, so that its root is right to a thousandth. 0 up to rounding in float64.
    """

    shape: tuple[int, int]
    vectors: Float[Tensor, "n k"]
    values: Float[Tensor, " k"]
    total: float
    missing: float
    unsure: float = 0.0

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

    What is lost is known whatever the iteration found: from its own products, or where those are
    too rough for so little or too many to be held, from one more pass in float64. The same seed,
    blocks and machine give the same bytes.

    Raises:
        NonFiniteError: the matrix has a NaN or an infinity.
    """
    device = device or torch.device("cpu")
    found = iterated(matrix, wanted, seed=seed, tolerance=_TOLERANCE, device=device, room=_ROOM)
    if found is None:
        vectors = leading(matrix, wanted, seed=seed, device=device).down.T.to(device)
        return _projected_on(matrix, torch.linalg.qr(vectors).Q, 0.0, take)
    vectors, triangle = torch.linalg.qr(found.vectors)
    if found.rows is None:
        return _projected_on(matrix, vectors, found.missing, take)
    rows = torch.linalg.solve_triangular(triangle.T, found.rows, upper=False).cpu()
    take(0, rows)
    values = torch.linalg.vector_norm(rows, dim=1)
    return Right(matrix.shape, vectors.cpu(), values, found.total, found.missing, found.unsure)


def _projected_on(
    matrix: RowBlocks, vectors: Float[Tensor, "n k"], missing: float, take: Take
) -> Right:
    """What the rows have in common with orthonormal vectors, in float64."""
    across = vectors.T.contiguous()
    squares = vectors.new_zeros(len(across))
    total = 0.0
    for begin, block in matrix.wide(vectors.device):
        rows = across @ block.T
        squares += rows.square().sum(1)
        total += torch.dot(block.view(-1), block.view(-1)).item()
        take(begin, rows.cpu())
    if not torch.isfinite(squares.sum() + total):
        raise NonFiniteError("the matrix has a NaN or an infinity; repair or leave out the tensor")
    return Right(matrix.shape, vectors.cpu(), squares.sqrt().cpu(), total, missing)
