"""Block Krylov iteration for leading right singular vectors (Musco and Musco, arXiv:1504.05477).

All iterates are kept, so that a few products find what subspace iteration needs many for. With V
all blocks so far, the next is what Xᵀ X V has beyond V, and the Ritz vectors are the combinations
of V that are the singular vectors of X V.
"""

import math
from itertools import pairwise
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from loratools.errors import NonFiniteError
from loratools.lowrank.ranks import NEGLIGIBLE, Wanted
from loratools.lowrank.rows import RowBlocks

#: ‖X‖² in float32 beyond this overflows, or loses what is small beside the largest.
_SAFE = (1e-24, 1e30)
#: Energies of an iteration differ by rounding up to this many eps of ‖X‖².
_NOISE = 4
#: The vectors of a block beyond the wanted ones: they part the values at the cut from the next.
_EXTRA = 8
#: The rank that is tried first where it follows from the energy.
_FIRST = 24
#: Cholesky's factor of a Gram matrix serves where its diagonal falls to no less than this share.
_DEPENDENT = 1e-4


def is_worthwhile(shape: tuple[int, int], wanted: Wanted) -> bool:
    """Whether iterating is likely to take less than the matrix's other singular vectors."""
    return wanted.loss >= NEGLIGIBLE and _is_few(wanted.rank, shape)


def _is_few(rank: int, shape: tuple[int, int]) -> bool:
    """Whether the blocks that a rank usually takes are less than half the matrix."""
    return 5 * (rank + _EXTRA) <= min(shape) // 2


def ritz_vectors(
    matrix: RowBlocks, wanted: Wanted, *, seed: int, tolerance: float, like: Tensor
) -> tuple[Float[Tensor, "n k"], float] | None:
    """As many vectors as wanted, and an estimate of the energy that the best have in addition.

    In float64, orthonormal to the rounding of `like`, whose dtype and device the iteration uses;
    float64 where squares leave the range of float32. None where that takes too many blocks.
    """
    generator = torch.Generator().manual_seed(seed)
    space = _Space(matrix, like)
    rank = wanted.rank if wanted.loss >= 1 else max(wanted.rank, _FIRST)
    block = space.sketch(rank + _EXTRA, generator)
    if like.dtype == torch.float32 and not _SAFE[0] < space.total < _SAFE[1]:
        return ritz_vectors(matrix, wanted, seed=seed, tolerance=tolerance, like=like.double())
    if not math.isfinite(space.total):
        raise NonFiniteError("the matrix has a NaN, an infinity or squares beyond float64")
    while space.basis.shape[1] + block.shape[1] <= min(matrix.shape) // 2:
        block = space.extend(block)
        count = wanted.count(space.curves[-1] - space.noise, space.total)
        if not _is_few(min(count, space.basis.shape[1] + 1), matrix.shape):
            return None
        if count > space.basis.shape[1]:
            block = torch.cat([block, space.sketch(block.shape[1], generator)], 1)
            continue
        kept, missing = space.captured(count)
        if missing <= max(tolerance * min(kept, space.total - kept), space.noise):
            return space.ritz(count), missing
    return None


@final
class _Space:
    """A growing Krylov space.

    Attributes:
        basis: V, orthonormal.
        core: Vᵀ Xᵀ X V, in float64 and on the CPU.
        curves: after each block, the energy that the first 1, 2, … Ritz vectors capture.
        total: ‖X‖², up to the rounding of V's dtype; from the first sketch on.
        noise: the rounding of energies.
    """

    def __init__(self, matrix: RowBlocks, like: Tensor) -> None:
        self.matrix = matrix
        self.basis = like.new_empty(matrix.shape[1], 0)
        self.core = torch.empty(0, 0, dtype=torch.float64)
        self.curves: list[NDArray[np.float64]] = []
        self.total = self.noise = 0.0

    def sketch(self, columns: int, generator: torch.Generator) -> Float[Tensor, "n columns"]:
        """Xᵀ G for a random G: half the work of `extend`, and half a step further than any V."""
        found = self.basis.new_zeros(columns, self.matrix.shape[1])
        total = self.basis.new_zeros((), dtype=torch.float64)
        for _, block in self.matrix.read():
            rows = block.to(found)
            found.addmm_(torch.randn(columns, len(rows), generator=generator).to(found), rows)
            # Norms of rows first: one sum in float32 over a whole block loses three digits.
            total += torch.linalg.vector_norm(rows, dim=1).double().square().sum()
        self.total = total.item()
        self.noise = _NOISE * torch.finfo(found.dtype).eps * self.total
        return found.T

    def extend(self, block: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
        """Add what is new in a block, V, and give Xᵀ X V."""
        for _ in range(2):  # the second for what the rounding of the first left
            block = _normalised(block - self.basis @ (self.basis.T @ block))
        self.basis = torch.cat([self.basis, block], 1)
        product = _squared(self.matrix, block)
        columns = (self.basis.T @ product).double().cpu()
        old, new = columns[: len(self.core)], columns[len(self.core) :]
        lower = torch.cat([old.T, (new + new.T) / 2], 1)
        self.core = torch.cat([torch.cat([self.core, old], 1), lower])
        energies = torch.linalg.eigvalsh(self.core).flip(0).clamp(min=0)
        self.curves.append(energies.cumsum(0).numpy())
        return product

    def captured(self, count: int) -> tuple[float, float]:
        """The energy of so many Ritz vectors, and how much more the next blocks will find.

        Twice what a geometric series would. It falls faster in the end, but where values are nearly
        equal at first like 1 / steps², which is 1.5 times the series.
        """
        if not count or not self.total:
            return 0.0, 0.0
        kept = [float(curve[min(count, len(curve)) - 1]) for curve in self.curves]
        gains = np.maximum(np.diff(kept), 0)[-3:].tolist()
        if len(gains) < 2:
            return kept[-1], math.inf
        # Two steps tell little beside a random start.
        decay = 1 / 3 if len(gains) == 2 else 1 / 8
        if gains[-1] > self.noise:
            ratios = [after / before if before else math.inf for before, after in pairwise(gains)]
            decay = max(decay, *ratios)
        return kept[-1], 2 * gains[-1] * decay / (1 - decay) if decay < 1 else math.inf

    def ritz(self, count: int) -> Float[Tensor, "n count"]:
        """The vectors that capture the most."""
        vectors = torch.linalg.eigh(self.core).eigenvectors.flip(1)[:, :count]
        found: Tensor = self.basis.double() @ vectors.to(self.basis.device)
        return found


def _normalised(block: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
    """An orthonormal basis, nearly: by Cholesky, or Householder for nearly dependent columns."""
    wide = block.double()
    factor, failed = torch.linalg.cholesky_ex(wide.T @ wide, upper=True)
    spread = factor.diagonal()
    if failed or not spread.min() > _DEPENDENT * spread.max():
        basis: Tensor = torch.linalg.qr(block).Q
        return basis
    solved: Tensor = torch.linalg.solve_triangular(factor.to(block), block, upper=True, left=False)
    return solved


def _squared(matrix: RowBlocks, vectors: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
    """Xᵀ X V."""
    across = vectors.T.contiguous()  # products with a flat matrix on the left are the faster ones
    product = torch.zeros_like(across)
    for _, block in matrix.read():
        rows = block.to(vectors)
        product.addmm_(across @ rows.T, rows)
    return product.T
