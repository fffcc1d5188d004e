"""Block Krylov iteration for leading right singular vectors (Musco and Musco, arXiv:1504.05477).

All iterates are kept, so that a few products find what subspace iteration needs many for. With V
all blocks so far, the Ritz vectors are the combinations of V that are the singular vectors of X V.
The next block is what Xᵀ X has beyond V of those that are not good enough: their residuals.
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

#: ‖X‖² in float32 beyond this overflows, or loses what is small beside the largest.
_SAFE = (1e-24, 1e30)
#: Energies of an iteration differ by rounding up to this many eps of ‖X‖².
_NOISE = 4
#: The vectors of a block beyond the wanted ones: they part the values at the cut from the next.
_EXTRA = 8
#: What is missing may be this many times as large a share of the squared error as of the energy.
_LOOSER = 10
#: Vectors that together miss at most this share of the goal need no further step.
_GOOD_ENOUGH = 1 / 64
#: The rank that is tried first where it follows from the energy.
_FIRST = 24
#: So many columns of (X V)ᵀ are widened at a time.
_COLUMNS = 2**12
#: X V tells what is lost if it is right to this share of that: its root then to a thousandth.
_TOLD = 2e-3
#: Cholesky's factor of a Gram matrix serves where its diagonal falls to no less than this share.
_DEPENDENT = 1e-4
#: A vector that an orthogonalisation leaves less of has nothing new.
_NEW = 0.1


def is_worthwhile(shape: tuple[int, int], wanted: Wanted) -> bool:
    """Whether iterating is likely to take less than the matrix's other singular vectors."""
    return wanted.loss >= NEGLIGIBLE and _is_few(wanted.rank, shape)


def _is_few(rank: int, shape: tuple[int, int]) -> bool:
    """Whether the blocks that a rank usually takes are less than half the matrix."""
    return 5 * (rank + _EXTRA) <= min(shape) // 2


@final
@dataclass(frozen=True, eq=False)
class Ritz:
    """What the iteration found, in float64, right to the rounding of the dtype it was in.

    Attributes:
        vectors: V, orthonormal.
        rows: (X V)ᵀ; None where there is no room, or they are too rough to tell ‖X - X V Vᵀ‖ by.
        missing: an estimate of the energy that the best vectors have in addition.
        total: ‖X‖², right to the rounding of float64.
        unsure: how far the energy of `rows` can be from that of X V.
    """

    vectors: Float[Tensor, "n k"]
    rows: Float[Tensor, "k m"] | None
    missing: float
    total: float
    unsure: float


def ritz_vectors(
    matrix: RowBlocks, wanted: Wanted, *, seed: int, tolerance: float, like: Tensor, room: int
) -> Ritz | None:
    """As many vectors as wanted.

    The iteration uses the dtype and device of `like`; float64 where squares leave the range of
    float32. At most `room` elements of X V are held. None where it takes too many blocks.
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
        count = wanted.count(kept.numpy() - space.noise, space.total)
        if not _is_few(min(count, space.width + 1), matrix.shape):
            return None
        if not has_grown:
            return space.ritz(min(count, space.width), 0.0)
        if count > space.width:
            block = space.sketch(space.width, generator)
            continue
        residuals = space.residuals(min(count + _EXTRA, space.width))
        missing = space.missing(residuals[:count])
        best = kept[:count].max().item() if count else 0.0
        goal = tolerance * min(best, _LOOSER * (space.total - best))
        if (least := min(missing.sum().item(), space.unseen)) <= max(goal, space.noise):
            return space.ritz(count, least)
        worst = _largest(missing, all_but=goal * _GOOD_ENOUGH)
        # Vectors beyond the cut fill up what takes no longer than a few.
        fill = range(count, min(len(residuals), count + _EXTRA - len(worst)))
        block = residuals[torch.tensor([*worst, *fill])]
    return None


@final
class _Space:
    """A growing Krylov space. Vectors are rows here: products with flat matrices are the faster.

    Attributes:
        basis: Vᵀ, orthonormal.
        rows: Vᵀ Xᵀ, in the blocks that were added; None where there is no room for all.
        images: Vᵀ Xᵀ X.
        core: Vᵀ Xᵀ X V, in float64 and on the CPU.
        energies: its eigenvalues, falling: the squares of the singular values of X V.
        turn: its eigenvectors, as rows, which make the Ritz vectors of V.
        total: ‖X‖², from the first sketch on.
        noise: the rounding of energies.
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
        """‖X - X V Vᵀ‖², which no choice of vectors can gain more than."""
        return max(0.0, self.total - self.energies.sum().item())

    def sketch(self, count: int, generator: torch.Generator) -> Float[Tensor, "count n"]:
        """Gᵀ X for a random G: half the work of `extend`, and half a step further than any V."""
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
        """Add what is new in a block to V, if anything is."""
        block = _normalised(block - (block @ self.basis.T) @ self.basis)
        # Once more, for what the rounding left. Where the block was dependent, some of its rows
        # have been made up, and may be anywhere in V.
        block = _normalised(block - (block @ self.basis.T) @ self.basis, least=_NEW)
        if not len(block):
            return False
        images = self._images(block)
        self.basis = torch.cat([self.basis, block])
        self.images = torch.cat([self.images, images])
        added = (images @ self.basis.T).double().cpu()
        old, new = added[:, : len(self.core)], added[:, len(self.core) :]
        lower = torch.cat([old, (new + new.T) / 2], 1)
        self.core = torch.cat([torch.cat([self.core, old.T], 1), lower])
        energies, turn = torch.linalg.eigh(self.core)
        self.energies, self.turn = energies.flip(0).clamp(min=0), turn.T.flip(0)
        return True

    def _images(self, block: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """The block times Xᵀ X; on the way, the block's rows of Vᵀ Xᵀ."""
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
        """What Xᵀ X gives the first Ritz vectors beyond their energies times themselves."""
        turn, energies = self.turn[:count].to(self.basis), self.energies[:count].to(self.basis)
        return turn @ self.images - (energies[:, None] * turn) @ self.basis

    def missing(self, residuals: Float[Tensor, "k n"]) -> Float[Tensor, " k"]:
        """How much more energy the best vectors may have than each of the first Ritz vectors.

        Twice the bound of Li and Li (doi:10.1016/j.laa.2004.08.026) for one eigenvalue, in which
        the next Ritz value stands for the largest energy that V has nothing of: both that and what
        residuals have in common are a little more.
        """
        count = len(residuals)
        squares = torch.linalg.vector_norm(residuals, dim=1).double().square().cpu()
        gaps = self.energies[:count] - self.energies[: count + 1].min()
        missing: Tensor = (gaps.square() + 4 * squares).sqrt() - gaps
        return missing

    def ritz(self, count: int, missing: float) -> Ritz:
        """The vectors that capture the most."""
        turn = self.turn[:count].to(self.basis.device)
        rows = None
        lost = self.total - self.energies[:count].sum().item()
        # Twice the error of a product, as it is squared, and twice for there are several.
        unsure = 4 * _rounding(self.basis) * self.total
        if self.rows and unsure <= _TOLD * lost:
            parts = zip(*(torch.split(some, _COLUMNS, dim=1) for some in self.rows), strict=True)
            rows = torch.cat([turn @ torch.cat(part).double() for part in parts], 1)
        return Ritz((turn @ self.basis.double()).T, rows, missing, self.total, unsure)


def _largest(values: Float[Tensor, " k"], *, all_but: float) -> list[int]:
    """Which to take, so that the others add up to no more."""
    order = values.argsort(descending=True, stable=True)
    rest = values[order].flip(0).cumsum(0).flip(0)
    taken: list[int] = order[rest > all_but].tolist()
    return taken


def _rounding(like: Tensor) -> float:
    """How far sums of products over rows like these can be off, relative to their terms.

    Measured where errors add up, with equal numbers, and for few rows and many, which torch
    multiplies in different ways. Thus it is known, too, if torch was told to use fewer bits.
    """
    numbers = torch.linspace(0.5, 1, 32).to(like)
    rows = numbers[:, None].expand(-1, like.shape[1]).contiguous()
    exact = numbers.double().outer(numbers.double()) * like.shape[1]
    errors = [(rows @ rows[:some].T).double() / exact[:, :some] - 1 for some in (1, 4, 32)]
    return max(error.abs().max().item() for error in errors)


def _normalised(block: Float[Tensor, "b n"], least: float = 0.0) -> Float[Tensor, "some n"]:
    """Orthonormal rows, nearly: by Cholesky, or Householder where they are nearly dependent.

    Of rows of length 1, those that have less than `least` beyond the rows before them are left out.
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
