"""Thin factors of a matrix that comes in blocks of rows: block Krylov iteration.

All iterates are kept (Musco and Musco, 2015, arXiv:1504.05477): with a few products it finds the
leading singular values, where subspace iteration needs many. It runs in float32. Its vectors are
then projected on in float64, so that what the result keeps and what it misses is known to rounding
whatever the iteration did: with orthonormal rows W, ‖X - X Wᵀ W‖² = ‖X‖² - ‖X Wᵀ‖².
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from loratools.errors import NonFiniteError
from loratools.lowrank.factored import triangle
from loratools.lowrank.ranks import TargetSpectrum, Wanted

#: A million elements of float64 stay in a core's cache.
_BLOCK = 2**20
#: Matrices with a side up to this are decomposed by LAPACK at once, if they have few elements.
_SMALL, _FEW = 256, 2**22
#: Squares of float32 outside of these would overflow, or lose what is small beside the largest.
_SAFE = (1e-24, 1e30)
#: Shares of lost energy that need an iteration in float64, and all singular values.
_FINE, _FINEST = 1e-5, 1e-13
#: Relative to ‖X‖², energies of the iteration differ by rounding up to this many eps.
_NOISE = 4


@final
@dataclass(frozen=True, eq=False)
class RowBlocks:
    """An m × n matrix that is read in blocks of rows, several times.

    Attributes:
        shape: (m, n).
        read: gives pairs of the first row's number and a block, float32 or float64, from row 0 on,
            the same at each call.
    """

    shape: tuple[int, int]
    read: Callable[[], Iterable[tuple[int, Tensor]]]

    @classmethod
    def of(cls, matrix: Float[Tensor, "m n"]) -> "RowBlocks":
        """A matrix in memory, in blocks that stay in a core's cache."""
        m, n = matrix.shape
        rows = max(1, _BLOCK // max(n, 1))
        return cls((m, n), lambda: ((at, matrix[at : at + rows]) for at in range(0, m, rows)))

    def transposed(self) -> "RowBlocks":
        """The transpose; it needs the whole matrix in memory."""
        return RowBlocks.of(torch.cat([block for _, block in self.read()]).T)


@final
@dataclass(frozen=True, eq=False)
class Leading:
    """The best approximation found, `up @ down`; its first r columns and rows are that of rank r.

    Attributes:
        up: (m, k), in float64. Both factors have the singular values √σ.
        values: σ, falling; fewer than wanted where the others are zero up to rounding.
        down: (k, n), in float64.
        total: ‖X‖², right to rounding in float64.
        missing: the energy that the best approximation of this rank is thought to have in
            addition; an estimate from the convergence, 0 where `exact`.
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
        """‖up @ down‖²; `total - kept` is the squared error, to a few 1e-15 of `total`."""
        return self.values.square().sum().item()

    @property
    def error(self) -> float:
        """The relative Frobenius error, certified; 0 for a zero matrix."""
        return math.sqrt(max(0.0, 1 - self.kept / self.total)) if self.total else 0.0

    @property
    def optimality(self) -> float:
        """The estimated share of the energy of the best approximation of the same rank."""
        return self.kept / (self.kept + self.missing) if self.kept else 1.0

    def spectrum(self) -> TargetSpectrum:
        """What a rule for ranks has to know."""
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
    """The leading singular values and vectors of a matrix, at least as many as wanted.

    What the factors keep, and their squared error, differ from those of the best approximation by
    at most `tolerance`, relative, as far as the convergence shows. The same seed, blocks and
    machine give the same bytes. The iteration needs `n` times about six times the rank in float32,
    and `m` times the rank in float64. Where that is no less than the matrix, all singular values
    are computed, from the smaller Gram matrix in float64; those below 1.2e-7 of the largest then
    count as zero.

    Raises:
        NonFiniteError: the matrix has a NaN or an infinity.
    """
    device = device or torch.device("cpu")
    if _worth_iterating(matrix.shape, wanted):
        dtype = torch.float32 if wanted.loss > _FINE else torch.float64
        generator = torch.Generator().manual_seed(seed)
        found = _iterate(
            matrix, wanted, generator, tolerance, torch.zeros((), dtype=dtype, device=device)
        )
        if found is not None:
            result = _certified(matrix, *found)
            if result.kept >= (1 - wanted.loss) * result.total or len(result.values) == wanted.most:
                return result
    if matrix.shape[0] >= matrix.shape[1]:
        return _decomposed(matrix, wanted, device)
    found = _decomposed(matrix.transposed(), wanted, device)
    return replace(found, up=found.down.T, down=found.up.T)


def _worth_iterating(shape: tuple[int, int], wanted: Wanted) -> bool:
    """Whether a few blocks of vectors are much less than the matrix."""
    short = min(shape)
    if short <= _SMALL and shape[0] * shape[1] <= _FEW:
        return False
    return wanted.loss > _FINEST and 3 * _width(wanted.rank) <= short // 2


def _width(rank: int) -> int:
    """The number of vectors in a block: some more than wanted separate those at the cut sooner."""
    return rank + max(8, rank // 4)


def _iterate(
    matrix: RowBlocks,
    wanted: Wanted,
    generator: torch.Generator,
    tolerance: float,
    like: Tensor,
) -> tuple[Tensor, float] | None:
    """Ritz vectors (n, k) in float64, and the energy that they miss; None where all are needed.

    With V all blocks so far, `core` is Vᵀ Xᵀ X V.
    """
    n, limit = matrix.shape[1], min(matrix.shape) // 2
    noise = _NOISE * torch.finfo(like.dtype).eps
    start = _gaussian(n, _width(max(wanted.rank, 24)), generator)
    basis, core, curves = like.new_empty(n, 0), torch.empty(0, 0, dtype=torch.float64), []
    block = start.to(like)
    while basis.shape[1] + block.shape[1] <= limit:
        block = _orthonormal(block, basis)
        basis = torch.cat([basis, block], 1)
        block, total = _power(matrix, block)
        if not curves and like.dtype == torch.float32 and not _SAFE[0] < total < _SAFE[1]:
            return _iterate(matrix, wanted, generator, tolerance, like.double())
        core = _grown(core, (basis.T @ block).double().cpu())
        curves.append(torch.linalg.eigvalsh(core).flip(0).clamp(min=0).cumsum(0).numpy())
        count = wanted.count(curves[-1] - noise * total, total)
        if count > len(curves[-1]):
            block = torch.cat([block, _gaussian(n, block.shape[1], generator).to(like)], 1)
            continue
        kept = curves[-1][count - 1] if count else 0.0
        missing = _missing([curve[min(count, len(curve)) - 1] for curve in curves[-3:]])
        if missing <= max(tolerance * min(kept, total - kept), noise * total):
            vectors = torch.linalg.eigh(core).eigenvectors.flip(1)[:, :count]
            return basis.double() @ vectors.to(basis.device), missing
    return None


def _gaussian(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator)


def _orthonormal(block: Float[Tensor, "n b"], basis: Float[Tensor, "n some"]) -> Tensor:
    """An orthonormal basis of a block, orthogonal to another one: twice is enough."""
    for _ in range(2):
        block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
    return block


def _power(matrix: RowBlocks, vectors: Float[Tensor, "n b"]) -> tuple[Tensor, float]:
    """Xᵀ X V, and ‖X‖² up to the rounding of V's dtype."""
    product = torch.zeros_like(vectors)
    total = vectors.new_zeros((), dtype=torch.float64)
    for _, block in matrix.read():
        rows = block.to(vectors)
        product.addmm_(rows.T, rows @ vectors)
        # Norms of rows first: one sum in float32 over a whole block loses three digits.
        total += torch.linalg.vector_norm(rows, dim=1).double().square().sum()
    return product, total.item()


def _grown(core: Float[Tensor, "k k"], columns: Float[Tensor, "some b"]) -> Tensor:
    """A symmetric matrix with more columns, and the same rows."""
    old, new = columns[: len(core)], columns[len(core) :]
    upper = torch.cat([core, old], 1)
    return torch.cat([upper, torch.cat([old.T, (new + new.T) / 2], 1)])


def _missing(kept: list[float]) -> float:
    """What a rising series is still going to gain: its increments fall geometrically, or faster."""
    if len(kept) < 3:
        return math.inf
    before, last = max(0.0, kept[1] - kept[0]), max(0.0, kept[2] - kept[1])
    return last**2 / (before - last) if last < before else (math.inf if last else 0.0)


def _certified(matrix: RowBlocks, basis: Float[Tensor, "n k"], missing: float) -> Leading:
    """The approximation by what rows have in common with a basis, as an SVD, in float64."""
    basis = torch.linalg.qr(basis).Q
    rows, total = _projected(matrix, basis)
    turn = torch.linalg.svd(triangle(rows), full_matrices=False).Vh.T
    rows, basis = rows @ turn, basis @ turn
    eps = torch.finfo(torch.float64).eps * max(matrix.shape)
    return _leading(rows, basis, total, missing=missing, resolution=eps, exact=False)


def _projected(matrix: RowBlocks, basis: Float[Tensor, "n k"]) -> tuple[Tensor, float]:
    """X V and ‖X‖² in float64."""
    rows = basis.new_empty(matrix.shape[0], basis.shape[1])
    total = basis.new_zeros(())
    for begin, block in _wide(matrix, basis.device):
        torch.mm(block, basis, out=rows[begin : begin + len(block)])
        total += torch.dot(block.view(-1), block.view(-1))
    if not math.isfinite(total.item()):
        raise NonFiniteError("the matrix has a NaN or an infinity; repair or leave out the tensor")
    return rows, total.item()


def _wide(matrix: RowBlocks, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """The blocks in float64, parted where they are large; each is overwritten by the next."""
    n = matrix.shape[1]
    size = max(1, _BLOCK // max(n, 1))
    space = torch.empty(size, n, dtype=torch.float64, device=device)
    for begin, block in matrix.read():
        for at in range(0, len(block), size):
            rows = block[at : at + size]
            yield begin + at, space[: len(rows)].copy_(rows)


def _decomposed(matrix: RowBlocks, wanted: Wanted, device: torch.device) -> Leading:
    """The exact decomposition of a matrix that is not wider than high."""
    m, n = matrix.shape
    eps = torch.finfo(torch.float64).eps
    if n <= _SMALL and m * n <= _FEW:
        whole = torch.cat([block.double() for _, block in matrix.read()]).to(device)
        _, values, vh = torch.linalg.svd(triangle(whole), full_matrices=False)
        squares, basis, resolution = values.square(), vh.T, eps * max(m, n)
    else:
        gram = torch.zeros(n, n, dtype=torch.float64, device=device)
        for _, block in _wide(matrix, device):
            gram.addmm_(block.T, block)
        values, vectors = torch.linalg.eigh(gram)
        squares, basis, resolution = values.flip(0).clamp(min=0), vectors.flip(1), 8 * eps**0.5
    kept = squares.cumsum(0).cpu().numpy()
    count = wanted.count(kept, kept[-1])
    rows, total = _projected(matrix, basis[:, :count])
    return _leading(rows, basis[:, :count], total, missing=0.0, resolution=resolution, exact=True)


def _leading(
    rows: Tensor, basis: Tensor, total: float, *, resolution: float, **how: Any
) -> Leading:
    """Balanced factors of `rows @ basisᵀ`, whose columns are orthogonal on both sides."""
    values, order = torch.linalg.vector_norm(rows, dim=0).sort(descending=True, stable=True)
    count = int((values > resolution * values[:1].sum()).sum())
    values, order = values[:count], order[:count]
    roots = values.sqrt()
    up, down = rows[:, order] / roots, (basis[:, order] * roots).T
    return Leading(up.cpu(), values.cpu(), down.cpu(), total, **how)
