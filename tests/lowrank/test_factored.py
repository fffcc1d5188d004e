"""Singular values of a product from its factors equal those of the product."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.lowrank.factored import (
    Factored,
    product_norm,
    singular_values,
)
from loratools.lowrank.spectrum import spectrum_of


def dense(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = torch.linalg.svdvals(up.double() @ down.double())
    return values


sizes = st.integers(1, 12)


@given(m=sizes, n=sizes, rank=sizes, seed=st.integers(0, 2**16), deficient=st.booleans())
def test_singular_values_equal_those_of_the_dense_product(
    m: int, n: int, rank: int, seed: int, deficient: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(m, rank, generator=generator)
    down = torch.randn(rank, n, generator=generator)
    if deficient:
        up[:, rank // 2 :] = 0
    found, expected = singular_values(up, down), dense(up, down)
    count = min(len(found), len(expected))
    # QR and SVD are backward stable: errors of a few eps of the largest value, times the size.
    bound = 64 * 2**-52 * max(m, n, rank) * (1 + expected[0].item())
    torch.testing.assert_close(found[:count], expected[:count], rtol=0, atol=bound)
    assert all(value <= bound for value in [*found[count:], *expected[count:]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_small_values_of_many_columns_are_as_right_as_the_large_ones(
    dtype: torch.dtype, condition: float
) -> None:
    """Columns of `up` nearly depend on each other; the oracle is Householder's QR in float64."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.linalg.qr(torch.randn(75, 75, generator=generator)).Q
    mixed = mixed * torch.logspace(0, -math.log10(condition), 75)
    up = (torch.randn(300, 75, generator=generator) @ mixed.T).to(dtype)
    down = torch.randn(75, 200, generator=generator).to(dtype)
    left, right = (torch.linalg.qr(side.double()).R for side in (up, down.T))
    expected = torch.linalg.svdvals(left @ right.T)
    # What is small was computed beside the largest: by QR with eps, by Gram with eps * condition.
    bound = 1e-14 if dtype == torch.float64 else 1e-10
    found = singular_values(up, down)
    largest = expected[0].item()
    torch.testing.assert_close(found, expected, rtol=bound, atol=64 * 2**-52 * largest)


def test_a_zero_update_has_a_spectrum_of_zeros() -> None:
    values = singular_values(torch.zeros(3, 2), torch.randn(2, 4))
    assert spectrum_of(values, 2) == spectrum_of(torch.zeros(2, dtype=torch.float64), 2)
    assert spectrum_of(values, 2).frobenius == 0


def test_summary_of_a_hand_computed_spectrum() -> None:
    """sigma = (2, 1): F = sqrt 5; stable = 5/4; entropy of (2/3, 1/3); half = 4/5."""
    found = spectrum_of(torch.tensor([2.0, 1.0], dtype=torch.float64), 2)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert found.frobenius == pytest.approx(math.sqrt(5), rel=1e-15)
    assert found.spectral == 2
    assert found.stable_rank == 1.25
    assert found.effective_rank == pytest.approx(math.exp(entropy), rel=1e-14)
    assert found.half_energy == pytest.approx(0.8, rel=1e-15)


@pytest.mark.parametrize("exponent", [-1000, 1000])
def test_shape_of_a_spectrum_does_not_depend_on_its_size(exponent: int) -> None:
    """Whose squares are no numbers, or nothing."""
    values = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    found, large = spectrum_of(values, 3), spectrum_of(values * 2.0**exponent, 3)
    assert large.frobenius == found.frobenius * 2.0**exponent
    assert large.spectral == found.spectral * 2.0**exponent
    assert replace(large, frobenius=0, spectral=0) == replace(found, frobenius=0, spectral=0)


def test_equal_singular_values_have_full_effective_rank() -> None:
    found = spectrum_of(torch.full((5,), 3.0, dtype=torch.float64), 5)
    assert found.stable_rank == pytest.approx(5)
    assert found.effective_rank == pytest.approx(5)
    assert found.half_energy == pytest.approx(3 / 5)


# --- truncation, inner products and angles -------------------------------------------------------

EPS = 2**-52


def factors(m: int, n: int, rank: int, seed: int, deficient: bool = False) -> Factored:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(m, rank, generator=generator)
    down = torch.randn(rank, n, generator=generator)
    if deficient:
        up[:, rank // 2 :] = up[:, : rank - rank // 2].clone()
    return Factored(up, down)


def rounding(*matrices: Factored) -> float:
    """What backward stable algorithms may be off by: a few eps of the norms of the factors."""
    size = max(max(each.up.shape + each.down.shape) for each in matrices)
    norms = math.prod(float(each.up.norm() * each.down.norm()) for each in matrices)
    return 64 * EPS * size * norms


any_product = st.builds(factors, sizes, sizes, sizes, st.integers(0, 2**16), st.booleans())


def exact(matrix: Factored) -> torch.Tensor:
    return matrix.up.double() @ matrix.down.double()


@given(matrix=any_product)
def test_a_truncation_leaves_the_tail_of_the_singular_values(matrix: Factored) -> None:
    """Eckart and Young (1936)."""
    svd, product, bound = matrix.svd(), exact(matrix), rounding(matrix)
    expected = torch.linalg.svdvals(product)
    assert len(svd.values) == min(*matrix.shape, matrix.up.shape[1])
    for rank in range(len(svd.values) + 1):
        up = matrix.up.double() @ svd.left[:, :rank]
        down = svd.right[:rank] @ matrix.down.double()
        error = torch.linalg.norm(product - up @ down).item()
        assert abs(error - expected[rank:].square().sum().sqrt().item()) <= bound


@given(matrix=any_product)
def test_both_factors_of_a_truncation_have_the_roots_of_the_values(matrix: Factored) -> None:
    svd, bound = matrix.svd(), rounding(matrix)
    up, down = matrix.up.double() @ svd.left, svd.right @ matrix.down.double()
    count = int((svd.values > bound).sum())
    values = svd.values[:count]
    # A column has the length √σ, and an error of `bound` / √σ.
    errors = bound / values.sqrt()
    tolerance = 3 * values.sqrt()[:1] * errors.max() if count else 0
    for gram in (up.T @ up, down @ down.T):
        assert ((gram[:count, :count] - values.diag()).abs() <= tolerance).all()


@given(matrix=any_product)
def test_the_norm_is_that_of_the_dense_matrix(matrix: Factored) -> None:
    dense = torch.linalg.norm(exact(matrix)).item()
    assert abs(product_norm(matrix) - dense) <= rounding(matrix)


def test_the_norm_of_a_difference_is_right_beside_the_norms_of_its_factors() -> None:
    """[a, a + e] @ [b; -b] is -e b. From the inner product, 1e-20 would drown in 1."""
    up = torch.tensor([[1.0, 1.0], [0.0, 1e-10]], dtype=torch.float64)
    down = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    assert product_norm(Factored(up, down)) == pytest.approx(1e-10, abs=8 * EPS)


def test_a_zero_update_has_values_of_zero_and_finite_vectors() -> None:
    zero = Factored(torch.zeros(3, 2), torch.zeros(2, 4))
    assert product_norm(zero) == 0
    assert zero.svd().values.tolist() == [0, 0]
    assert not (zero.up.double() @ zero.svd().left).any()
