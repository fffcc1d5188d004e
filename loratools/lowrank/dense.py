"""Thin factors of a matrix that is read in blocks of rows.

However the vectors W are found, the matrix X is then projected on them in float64. So the kept and
the lost energy are known up to rounding: with W orthonormal, ‖X - X W Wᵀ‖² = ‖X‖² - ‖X W‖².
"""

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from loratools.errors import NonFiniteError
from loratools.lowrank.devices import ready
from loratools.lowrank.factored import triangle
from loratools.lowrank.krylov import Ritz, is_worthwhile, ritz_vectors
from loratools.lowrank.ranks import Wanted
from loratools.lowrank.row_blocks import RowBlocks
from loratools.lowrank.truncation import TargetSpectrum

#: LAPACK's SVD is fast for a matrix with a side of at most `_SHORT` and at most `_FEW` elements.
_SHORT, _FEW = 256, 2**22
#: A rule that allows at most this share of the energy to be lost needs the iteration in float64.
_FINE = 1e-5
_EPS = torch.finfo(torch.float64).eps


@final
@dataclass(frozen=True, eq=False)
class Leading:
    """An approximation `up @ down` of a matrix X, which can be cut to any smaller rank.

    The first r columns of `up` and rows of `down` are the approximation of rank r.

    Attributes:
        up: (m, k), in float64. Both factors have the singular values √σ. The columns of `up`, and
            the rows of `down`, are orthogonal up to rounding relative to the largest.
        values: σ, falling; fewer than wanted where the others are zero up to rounding.
        down: (k, n), in float64.
        total: ‖X‖², correct up to rounding in float64.
        missing: the additional energy that the best approximation of this rank is estimated to
            have, from the convergence of the iteration; 0 if `exact`.
        exact: whether all singular values were computed, instead of iterating.
    """

    up: Float[Tensor, "m k"]
    values: Float[Tensor, " k"]
    down: Float[Tensor, "k n"]
    total: float
    missing: float
    exact: bool

    @property
    def kept(self) -> float:
        """‖up @ down‖²; `total - kept` is the squared error, up to a few 1e-15 of `total`."""
        return self.values.square().sum().item()

    @property
    def error(self) -> float:
        """The certified relative Frobenius error ‖X - up @ down‖ / ‖X‖; 0 for a zero matrix."""
        return math.sqrt(max(0.0, 1 - self.kept / self.total)) if self.total else 0.0

    def spectrum(self) -> TargetSpectrum:
        """The singular values and the energy, as a rule for ranks takes them."""
        m, n = self.up.shape[0], self.down.shape[1]
        return TargetSpectrum(m, n, self.values.numpy(), self.total)


def leading(
    matrix: RowBlocks,
    wanted: Wanted,
    *,
    seed: int,
    tolerance: float = 1e-4,
    device: torch.device | None = None,
) -> Leading:
    """Compute as many leading singular values and vectors of a matrix as are wanted.

    As far as the convergence shows, the kept energy is below the best approximation's by at most
    `tolerance` of it and ten times that share of the squared error, or by 5e-7 of ‖X‖². The same
    seed, blocks and number of threads give the same bytes.

    The iteration takes memory for about 8 n k elements. If that would be half the matrix, or if
    the matrix is small, all singular values are computed instead, in float64. Where they are found
    from a Gram matrix, values below 1.2e-7 of the largest count as zero. A matrix that is wider
    than high is then read into memory as a whole.

    Raises:
        NonFiniteError: the matrix has a NaN or an infinity.
    """
    device = ready(device)
    # No room for X V: the projection computes it again in float64.
    found = iterated(matrix, wanted, seed=seed, tolerance=tolerance, device=device, room=0)
    if found is not None:
        result = _projected_on(matrix, found.vectors, found.missing)
        # The iteration counted the wanted values with energies that are rounded. If its vectors
        # turn out to keep too little, the exact decomposition follows.
        if result.kept >= (1 - wanted.loss) * result.total or len(result.values) == wanted.most:
            return result
    if matrix.shape[0] >= matrix.shape[1]:
        return _decomposed(matrix, wanted, device)
    turned = _decomposed(RowBlocks.of(matrix.whole().T), wanted, device)
    return replace(turned, up=turned.down.T, down=turned.up.T)


def iterated(
    matrix: RowBlocks,
    wanted: Wanted,
    *,
    seed: int,
    tolerance: float,
    device: torch.device,
    room: int,
) -> Ritz | None:
    """The leading right singular vectors; None where the exact decomposition costs less."""
    if _is_small(matrix) or not is_worthwhile(matrix.shape, wanted):
        return None
    dtype = torch.float32 if wanted.loss > _FINE else torch.float64
    like = torch.empty(0, dtype=dtype, device=device)
    return ritz_vectors(matrix, wanted, seed=seed, tolerance=tolerance, like=like, room=room)


def _is_small(matrix: RowBlocks) -> bool:
    return min(matrix.shape) <= _SHORT and math.prod(matrix.shape) <= _FEW


def _projected_on(matrix: RowBlocks, vectors: Float[Tensor, "n k"], missing: float) -> Leading:
    """The projection X W Wᵀ on the space of some vectors, decomposed into its singular vectors."""
    vectors = torch.linalg.qr(vectors).Q
    rows, total = _product(matrix, vectors)
    # Multiplied with the right singular vectors of X W, both sides have orthogonal columns. The
    # triangle has the same ones as the tall X W.
    turn = torch.linalg.svd(triangle(rows), full_matrices=False).Vh.T
    noise = _EPS * max(matrix.shape)
    return _balanced(rows @ turn, vectors @ turn, noise, total=total, missing=missing, exact=False)


def _decomposed(matrix: RowBlocks, wanted: Wanted, device: torch.device) -> Leading:
    """All singular values of a matrix that is not wider than high, and the wanted vectors."""
    if _is_small(matrix):
        whole = matrix.whole().to(device).double()
        _check_finite(whole.square().sum().item())
        _, values, vh = torch.linalg.svd(triangle(whole), full_matrices=False)
        energies, vectors, noise = values.square(), vh.T, _EPS * max(matrix.shape)
    else:
        gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device=device)
        for _, block in matrix.wide(device):
            gram.addmm_(block.T, block)
        _check_finite(gram.trace().item())
        energies, vectors = torch.linalg.eigh(gram)
        # eigh finds each σ² up to a few eps of the largest σ², which leaves half the digits for σ.
        energies, vectors, noise = energies.flip(0).clamp(min=0), vectors.flip(1), 8 * _EPS**0.5
    kept = energies.cumsum(0).cpu().numpy()
    vectors = vectors[:, : wanted.count(kept, kept[-1])]
    rows, total = _product(matrix, vectors)
    return _balanced(rows, vectors, noise, total=total, missing=0.0, exact=True)


def _product(matrix: RowBlocks, vectors: Float[Tensor, "n k"]) -> tuple[Tensor, float]:
    """The product of the matrix X with some vectors W, and ‖X‖², both in float64."""
    rows = vectors.new_empty(matrix.shape[0], vectors.shape[1])
    total = vectors.new_zeros(())
    for begin, block in matrix.wide(vectors.device):
        torch.mm(block, vectors, out=rows[begin : begin + len(block)])
        total += torch.dot(block.view(-1), block.view(-1))
    _check_finite(total.item())
    return rows, total.item()


def _balanced(
    rows: Float[Tensor, "m k"],
    vectors: Float[Tensor, "n k"],
    noise: float,
    *,
    total: float,
    missing: float,
    exact: bool,
) -> Leading:
    """Balanced factors of `rows @ vectorsᵀ`: each gets the square roots of the singular values.

    The columns of `rows`, and those of `vectors`, are orthogonal. A singular value of at most
    `noise` times the largest counts as zero.
    """
    values, order = torch.linalg.vector_norm(rows, dim=0).sort(descending=True, stable=True)
    count = int((values > noise * values[:1].sum()).sum())
    values, order = values[:count], order[:count]
    roots = values.sqrt()
    up, down = rows[:, order] / roots, (vectors[:, order] * roots).T
    return Leading(up.cpu(), values.cpu(), down.cpu(), total, missing, exact)


def _check_finite(total: float) -> None:
    if not math.isfinite(total):
        raise NonFiniteError("the matrix has a NaN, an infinity or squares beyond float64")
