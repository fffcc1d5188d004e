"""Block Krylov iteration for leading right singular vectors (Musco and Musco, arXiv:1504.05477).

All iterates are kept, so that a few products with the matrix X find what subspace iteration needs
many for. The columns of V are all blocks so far, made orthonormal. The Ritz vectors are V times the
right singular vectors of X V: the best approximations to singular vectors of X that lie in V. Where
a Ritz vector w is not good enough, its residual Xᵀ X w - σ² w, which is orthogonal to V, becomes a
vector of the next block.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from loratools.errors import NonFiniteError
from loratools.lowrank.ranks import NEGLIGIBLE, Wanted
from loratools.lowrank.row_blocks import RowBlocks, squares

#: The range of ‖X‖² for float32: above it squares overflow, and below it small ones underflow.
_SAFE = (1e-24, 1e30)
#: Energies of an iteration differ by rounding up to this many eps of ‖X‖².
_NOISE = 4
#: The vectors of a block beyond the wanted ones: convergence depends on the gap between the last
#: wanted singular value and the first one that the block has no vector for.
_EXTRA = 8
#: The tolerance, as a share of the squared error, is this many times that for the energy.
_LOOSER = 10
#: Ritz vectors that together miss at most this share of the goal need no further step.
_GOOD_ENOUGH = 1 / 64
#: The rank that is tried first where the rank depends on the energy, which is not known yet.
_FIRST = 24
#: The number of columns of (X V)ᵀ that are converted to float64 at a time.
_COLUMNS = 2**12
#: The products X V certify the lost energy if they determine it to this share of itself: the error,
#: which is its root, is then correct to a thousandth.
_TOLD = 2e-3
#: A block whose Cholesky diagonal falls below this share of its largest entry is nearly dependent.
_DEPENDENT = 1e-4
#: A vector of length 1 has nothing new if less than this is left of it after orthogonalisation.
_NEW = 0.1


def is_worthwhile(shape: tuple[int, int], wanted: Wanted) -> bool:
    """Whether the iteration is likely to cost less than computing all singular values."""
    return wanted.loss >= NEGLIGIBLE and _is_few(wanted.rank, shape)


def _is_few(rank: int, shape: tuple[int, int]) -> bool:
    """Whether the blocks that this rank usually takes have less than half the matrix's vectors."""
    return 5 * (rank + _EXTRA) <= min(shape) // 2


@final
@dataclass(frozen=True, eq=False)
class Ritz:
    """The Ritz vectors that the iteration found, stored in float64.

    They are correct up to rounding in the dtype of the iteration.

    Attributes:
        vectors: V, orthonormal.
        rows: (X V)ᵀ; None where there was no room for it, or where it is too imprecise to
            determine ‖X - X V Vᵀ‖.
        missing: the estimated additional energy of the best vectors.
        total: ‖X‖², correct up to rounding in float64.
        unsure: the largest difference between the energy of `rows` and the true energy of X V.
    """

    vectors: Float[Tensor, "n k"]
    rows: Float[Tensor, "k m"] | None
    missing: float
    total: float
    unsure: float


def ritz_vectors(
    matrix: RowBlocks, wanted: Wanted, *, seed: int, tolerance: float, like: Tensor, room: int
) -> Ritz | None:
    """Find as many leading right singular vectors as are wanted; None if that costs too much.

    The iteration uses the device of `like`, and its dtype, unless squares leave the range of
    float32: then float64. At most `room` elements of X V are kept. It gives up, and returns None,
    once it takes so many vectors that the exact decomposition is cheaper.

    Raises:
        NonFiniteError: the matrix has a NaN, an infinity or squares beyond float64.
    """
    generator = torch.Generator().manual_seed(seed)
    space = _Space(matrix, like, room)
    rank = wanted.rank if wanted.loss >= 1 else max(wanted.rank, _FIRST)
    block = space.sketch(rank + _EXTRA, generator)
    if like.dtype == torch.float32 and not _SAFE[0] < space.total < _SAFE[1]:
        like = like.double()
        return ritz_vectors(matrix, wanted, seed=seed, tolerance=tolerance, like=like, room=room)
    if not math.isfinite(space.total):
        raise NonFiniteError("the matrix has a NaN, an infinity or squares beyond float64")
    while space.width + len(block) <= min(matrix.shape) // 2:
        has_grown = space.extend(block)
        kept = space.energies.cumsum(0)
        # Less the noise, so that rounding never makes too few values look like enough.
        count = wanted.count(kept.numpy() - space.noise, space.total)
        if not _is_few(min(count, space.width + 1), matrix.shape):
            return None
        if not has_grown:
            # Nothing of the block is outside of V, so V contains the wanted vectors: no energy is
            # missing.
            return space.ritz(min(count, space.width), 0.0)
        if count > space.width:
            # More values are needed than V has vectors, and nothing tells how many: double V.
            block = space.sketch(space.width, generator)
            continue
        residuals = space.residuals(min(count + _EXTRA, space.width))
        missing = space.missing(residuals[:count])
        best = kept[:count].max().item() if count else 0.0
        goal = tolerance * min(best, _LOOSER * (space.total - best))
        # The smaller of two estimates of the missing energy: by the residuals, and by all that is
        # outside of V.
        if (least := min(missing.sum().item(), space.unseen)) <= max(goal, space.noise):
            return space.ritz(count, least)
        worst = _largest(missing, all_but=goal * _GOOD_ENOUGH)
        # A product with a few vectors takes as long as with one, so vectors beyond the cut fill up
        # the block.
        fill = range(count, min(len(residuals), count + _EXTRA - len(worst)))
        block = residuals[torch.tensor([*worst, *fill])]
    return None


@final
class _Space:
    """A growing Krylov space.

    Vectors are stored as rows, because products with a flat matrix on the left are faster.

    Attributes:
        basis: Vᵀ, orthonormal.
        rows: Vᵀ Xᵀ, one tensor for each block that was added; None if there is no room for all.
        images: Vᵀ Xᵀ X.
        core: Vᵀ Xᵀ X V, in float64 and on the CPU.
        energies: the falling eigenvalues of `core`: the squared singular values of X V.
        turn: the eigenvectors of `core`, as rows; `turn @ basis` are the Ritz vectors.
        total: ‖X‖², known after the first sketch.
        noise: the rounding error that energies may have.
    """

    def __init__(self, matrix: RowBlocks, like: Tensor, room: int = 0) -> None:
        self.matrix = matrix
        self.basis = self.images = like.new_empty(0, matrix.shape[1])
        self.rows: list[Tensor] | None = []
        self.core = self.turn = torch.empty(0, 0, dtype=torch.float64)
        self.energies = torch.empty(0, dtype=torch.float64)
        self.total = self.noise = 0.0
        self._room = room

    @property
    def width(self) -> int:
        """The number of vectors in V."""
        return len(self.basis)

    @property
    def unseen(self) -> float:
        """The energy outside of V, ‖X - X V Vᵀ‖²: other vectors cannot gain more than this."""
        return max(0.0, self.total - self.energies.sum().item())

    def sketch(self, count: int, generator: torch.Generator) -> Float[Tensor, "count n"]:
        """Compute Gᵀ X for a random G, with half the work of `extend`.

        Already multiplied with X once, it is half a step nearer to the leading vectors than random
        vectors would be.
        """
        found = self.basis.new_zeros(count, self.matrix.shape[1])
        total = 0.0
        for _, block in self.matrix.read():
            rows = block.to(found)
            found.addmm_(torch.randn(count, len(rows), generator=generator).to(found), rows)
            if self.matrix.total is None:
                total += squares(rows)
        self.total = self.matrix.total or total
        self.noise = _NOISE * torch.finfo(found.dtype).eps * self.total
        return found

    def extend(self, block: Float[Tensor, "b n"]) -> bool:
        """Add the part of a block that is outside of V; return whether there was any."""
        block = _normalised(block - (block @ self.basis.T) @ self.basis)
        # Once more, because rounding leaves something of V in the block. If its rows were dependent
        # on each other, QR has invented some of them, and these may lie in V.
        block = _normalised(block - (block @ self.basis.T) @ self.basis, least=_NEW)
        if not len(block):
            return False
        images = self._images(block)
        self.basis = torch.cat([self.basis, block])
        self.images = torch.cat([self.images, images])
        added = (images @ self.basis.T).double().cpu()
        old, new = added[:, : len(self.core)], added[:, len(self.core) :]
        # Rounding makes the new part slightly asymmetric; eigh would read one triangle only.
        lower = torch.cat([old, (new + new.T) / 2], 1)
        self.core = torch.cat([torch.cat([self.core, old.T], 1), lower])
        energies, turn = torch.linalg.eigh(self.core)
        self.energies, self.turn = energies.flip(0).clamp(min=0), turn.T.flip(0)
        return True

    def _images(self, block: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Multiply the block with Xᵀ X, and keep the rows of Vᵀ Xᵀ that this gives on the way."""
        if (self.width + len(block)) * self.matrix.shape[0] > self._room:
            self.rows = None
        images = torch.zeros_like(block, memory_format=torch.contiguous_format)
        halfway = []
        for _, rows in self.matrix.read():
            below = rows.to(block)
            product = block @ below.T
            images.addmm_(product, below)
            if self.rows is not None:
                halfway.append(product)
        if self.rows is not None:
            self.rows.append(torch.cat(halfway, 1))
        return images

    def residuals(self, count: int) -> Float[Tensor, "count n"]:
        """The residuals Xᵀ X w - σ² w of the first Ritz vectors w, as rows."""
        turn, energies = self.turn[:count].to(self.basis), self.energies[:count].to(self.basis)
        return turn @ self.images - (energies[:, None] * turn) @ self.basis

    def missing(self, residuals: Float[Tensor, "k n"]) -> Float[Tensor, " k"]:
        """Estimate the energy that each of the first Ritz vectors lacks of a true singular vector.

        Twice the bound of Li and Li (doi:10.1016/j.laa.2004.08.026) for one eigenvalue. The bound
        needs the largest energy outside of V, for which the next Ritz value stands in, and holds
        for one vector at a time. The factor of two covers both, as that energy is a little larger
        and the residuals of several vectors overlap.
        """
        count = len(residuals)
        squares = torch.linalg.vector_norm(residuals, dim=1).double().square().cpu()
        gaps = self.energies[:count] - self.energies[: count + 1].min()
        missing: Tensor = (gaps.square() + 4 * squares).sqrt() - gaps
        return missing

    def ritz(self, count: int, missing: float) -> Ritz:
        """The first `count` Ritz vectors, with the products X V if they are precise enough."""
        turn = self.turn[:count].to(self.basis.device)
        rows = None
        lost = self.total - self.energies[:count].sum().item()
        # Squaring doubles the relative error of a product; twice that, as there are several.
        unsure = 4 * _rounding(self.basis) * self.total
        if self.rows and unsure <= _TOLD * lost:
            parts = zip(*(torch.split(some, _COLUMNS, dim=1) for some in self.rows), strict=True)
            rows = torch.cat([turn @ torch.cat(part).double() for part in parts], 1)
        return Ritz((turn @ self.basis.double()).T, rows, missing, self.total, unsure)


def _largest(values: Float[Tensor, " k"], *, all_but: float) -> list[int]:
    """The positions of the largest values, as few as leave a sum of at most `all_but`."""
    order = values.argsort(descending=True, stable=True)
    rest = values[order].flip(0).cumsum(0).flip(0)
    taken: list[int] = order[rest > all_but].tolist()
    return taken


def _rounding(like: Tensor) -> float:
    """Measure the relative error of sums of products over rows with this dtype and length.

    It is measured with equal numbers, whose errors add up, and with few rows and many, for which
    torch uses different algorithms. A bound in terms of eps would not notice settings that let
    torch multiply with fewer bits, such as TF32.
    """
    numbers = torch.linspace(0.5, 1, 32).to(like)
    rows = numbers[:, None].expand(-1, like.shape[1]).contiguous()
    exact = numbers.double().outer(numbers.double()) * like.shape[1]
    errors = [(rows @ rows[:some].T).double() / exact[:, :some] - 1 for some in (1, 4, 32)]
    return max(error.abs().max().item() for error in errors)


def _normalised(block: Float[Tensor, "b n"], least: float = 0.0) -> Float[Tensor, "some n"]:
    """Make rows orthonormal up to rounding, with Cholesky's factor or, if nearly dependent, QR.

    The second pass gives `least`: rows (of length 1) are left out if less than this of them is
    independent of the rows before them.
    """
    wide = block.double()
    factor, failed = torch.linalg.cholesky_ex(wide @ wide.T)
    spread = factor.diagonal()
    if failed or not spread.min() > max(least, _DEPENDENT * spread.max()):
        basis, triangle = torch.linalg.qr(block.T)
        found: Tensor = basis.T[triangle.diagonal().abs() >= least]
        return found
    solved: Tensor = torch.linalg.solve_triangular(factor.to(block), block, upper=False)
    return solved
