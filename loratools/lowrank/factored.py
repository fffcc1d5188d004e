"""Algebra of a product `up @ down` that is never formed: O((m + n) R²) for an m × n matrix.

Factors may be rank-deficient or zero, and R may be larger than m or n. Everything is computed in
float64, so that rounding here adds nothing noticeable to that of the stored factors.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

#: Elements that are converted to float64 at a time: 1 MiB.
_BLOCK = 2**17
#: Columns of a Gram matrix that are computed at a time.
_PANEL = 32
#: Cholesky's factor of the Gram matrix of columns of length 1 is as good as Householder's up to
#: this mean of 1 / eigenvalue: its errors grow with the largest 1 / eigenvalue.
_WELL_CONDITIONED = 8.0
#: The limit for columns stored in 32 bits or fewer: errors of 1e-10 are far below their rounding.
_WELL_ENOUGH = 1e3
#: Beyond these limits the inverse of the factor is applied to the columns. A second factor is taken
#: (CholeskyQR2) if no entry of the new Gram matrix is further than this from the identity.
_NEARLY_ORTHOGONAL = 0.1


@final
@dataclass(frozen=True, eq=False)
class Factored:
    """An m × n matrix that is given as the product `up @ down`."""

    up: Float[Tensor, "m R"]
    down: Float[Tensor, "R n"]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (m, n) of the product."""
        return self.up.shape[0], self.down.shape[1]

    def dense(self) -> Float[Tensor, "m n"]:
        """The product `up @ down` as a matrix in memory."""
        return self.up @ self.down

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> "Factored":
        """The same matrix with factors of another dtype, moved to a device if one is given."""
        return Factored(self.up.to(device, dtype), self.down.to(device, dtype))

    def svd(self) -> "CoreSVD":
        """The singular value decomposition of `up @ down`."""
        return core_svd(self.up, self.down)


@final
@dataclass(frozen=True, eq=False)
class CoreSVD:
    """The SVD of `up @ down`, as small matrices to multiply onto the factors.

    With r = min(m, n, R): for any k ≤ r, `(up @ left[:, :k]) @ (right[:k] @ down)` is the best
    approximation of rank k (Eckart and Young, 1936). Both of its factors have the singular values
    √σ. For a σ that is zero up to rounding, the column of `left` and the row of `right` are zero.

    Attributes:
        values: σ, falling, of shape (r,).
        left: (R, k), with k = r unless only `leading` columns were kept.
        right: (k, R).
    """

    values: Float[Tensor, " r"]
    left: Float[Tensor, "R k"]
    right: Float[Tensor, "k R"]

    def leading(self, count: int | None) -> "CoreSVD":
        """All singular values, with the matrices for the first `count` (all of them if None)."""
        return CoreSVD(self.values, self.left[:, :count].clone(), self.right[:count].clone())

    def held_in(self, space: Float[Tensor, " elements"]) -> "CoreSVD":
        """A copy in the caller's memory: all values, then as many columns as there is room for.

        Small matrices that are kept while large ones around them are freed would fragment the
        memory, so that `malloc` could not return it.
        """
        r, ranks = len(self.values), len(self.left)
        count = (len(space) - r) // (2 * ranks)
        left, right = space[r:].view(2, -1)
        return CoreSVD(
            space[:r].copy_(self.values),
            left.view(ranks, count).copy_(self.left[:, :count]),
            right.view(count, ranks).copy_(self.right[:count]),
        )


def core_svd(
    up: Float[Tensor, "m R"], down: Float[Tensor, "R n"], scale: Float[Tensor, " R"] | None = None
) -> CoreSVD:
    """The SVD of `up @ diag(scale) @ down`, or of `up @ down` without a scale.

    The result is to be multiplied onto `up` and `down` as they are given, without the scale.

    With up = Q S and downᵀ = P T, the product is Q (S Tᵀ) Pᵀ, so that its singular values are
    those of the R × R core S Tᵀ. The orthonormal bases Q and P are not needed: multiplied onto T
    and S, the singular vectors of the core become combinations of the factors themselves.
    """
    left, right = triangle(up), triangle(down.T)
    if scale is not None:
        left = left * scale
    u, values, vh = torch.linalg.svd(left @ right.T, full_matrices=False)
    count = min(up.shape[0], down.shape[1], len(values))
    values = values[:count]
    eps = torch.finfo(torch.float64).eps * max(up.shape[0], *down.shape)
    noise = eps * torch.linalg.norm(left) * torch.linalg.norm(right)
    roots = torch.where(values > noise, values.rsqrt(), 0.0)
    mixed = right.T @ vh[:count].T * roots
    return CoreSVD(
        values,
        mixed if scale is None else scale[:, None] * mixed,
        roots[:, None] * (u[:, :count].T @ left),
    )


def singular_values(
    up: Float[Tensor, "m R"], down: Float[Tensor, "R n"], scale: Float[Tensor, " R"] | None = None
) -> Float[Tensor, " values"]:
    """The falling singular values of `up @ down`, or of `up @ diag(scale) @ down`, in float64.

    There are at most min(m, n, R).
    """
    left = triangle(up) if scale is None else triangle(up) * scale
    values: Tensor = torch.linalg.svdvals(left @ triangle(down.T).T)
    return values[: min(up.shape[0], down.shape[1])]


def product_norm(matrix: Factored) -> float:
    """The Frobenius norm of `up @ down`, in float64."""
    # Not the root of trace(matrixᵀ matrix) by the factors: its rounding is relative to their norms,
    # and the norm of the product can be far smaller.
    norm: float = torch.linalg.norm(triangle(matrix.up) @ triangle(matrix.down.T).T).item()
    return norm


def triangle(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "some columns"]:
    """The R of a QR decomposition in float64, up to the signs of its rows: Rᵀ R = matrixᵀ matrix.

    It is the Cholesky factor of the Gram matrix, improved by a second one if the columns are not
    well conditioned (CholeskyQR2: Yamamoto et al., 2015). That runs at the speed of a matrix
    product and is as accurate as Householder's QR, which decomposes nearly dependent columns and
    matrices that are not higher than wide.
    """
    if matrix.shape[0] > matrix.shape[1] > 0:
        gram = gram_matrix(matrix)
        lengths = gram.diagonal().sqrt()
        factor, inverse = _cholesky(gram / lengths.outer(lengths))
        if factor is not None and inverse is not None:
            limit = _WELL_CONDITIONED if matrix.dtype == torch.float64 else _WELL_ENOUGH
            if inverse.square().sum() <= limit * len(gram):
                return factor * lengths
            # The first factor's inverse makes the columns nearly orthonormal, so that the second
            # Gram matrix is well conditioned, and its factor corrects the first.
            gram = gram_matrix(matrix, inverse / lengths[:, None])
            gap = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max()
            if gap < _NEARLY_ORTHOGONAL:  # false for NaN as well
                second: Tensor = torch.linalg.cholesky(gram, upper=True)
                return torch.mm(second, factor * lengths)
    r: Tensor = torch.linalg.qr(matrix.double(), mode="r").R
    return r


def gram_matrix(
    matrix: Float[Tensor, "rows columns"], onto: Float[Tensor, "columns columns"] | None = None
) -> Float[Tensor, "columns columns"]:
    """The Gram matrix Xᵀ X in float64, where X is the matrix or `matrix @ onto`.

    Only some rows are in float64 at a time.
    """
    columns = matrix.shape[1]
    gram = matrix.new_zeros(columns, columns, dtype=torch.float64)
    for rows in torch.split(matrix, max(1, _BLOCK // columns)):
        block = wide(rows) if onto is None else wide(rows) @ onto
        # Only panels from the diagonal on are computed: the lower triangle mirrors the upper one.
        for at in range(0, columns, _PANEL):
            panel = slice(at, at + _PANEL)
            gram[panel, at:].addmm_(block[:, panel].T, block[:, at:])
    return gram.triu() + gram.triu(1).T


def wide_product(
    matrix: Float[Tensor, "rows some"], onto: Float[Tensor, "some columns"]
) -> Float[Tensor, "rows columns"]:
    """The product `matrix @ onto` in float64, with only some rows converted at a time."""
    blocks = torch.split(matrix, max(1, _BLOCK // max(1, matrix.shape[1])))
    return torch.cat([wide(rows) @ onto for rows in blocks])


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float64."""
    # By way of float32, which is ten times as fast from float16, and exact.
    return tensor.float().double() if tensor.itemsize < 4 else tensor.double()


def _cholesky(gram: Float[Tensor, "n n"]) -> tuple[Tensor | None, Tensor | None]:
    """The upper Cholesky factor and its inverse; None for both if there is no finite factor."""
    factor, failed = torch.linalg.cholesky_ex(gram, upper=True)
    if failed or not math.isfinite(factor.sum()):
        return None, None
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return factor, torch.linalg.solve_triangular(factor, identity, upper=True)
