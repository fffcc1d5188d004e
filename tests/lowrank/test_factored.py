"""Singular values of a product from its factors equal those of the product."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.lowrank.factored import singular_values
from loratools.lowrank.spectrum import spectrum_of


def dense(up, down):
    return torch.linalg.svdvals(up.double() @ down.double())


sizes = st.integers(1, 12)


@given(m=sizes, n=sizes, rank=sizes, seed=st.integers(0, 2**16), deficient=st.booleans())
def test_singular_values_equal_those_of_the_dense_product(m, n, rank, seed, deficient):
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


def test_a_zero_update_has_a_spectrum_of_zeros():
    values = singular_values(torch.zeros(3, 2), torch.randn(2, 4))
    assert spectrum_of(values, 2) == spectrum_of(torch.zeros(2, dtype=torch.float64), 2)
    assert spectrum_of(values, 2).frobenius == 0


def test_summary_of_a_hand_computed_spectrum():
    """sigma = (2, 1): F = sqrt 5; stable = 5/4; entropy of (2/3, 1/3); half = 4/5."""
    found = spectrum_of(torch.tensor([2.0, 1.0], dtype=torch.float64), 2)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert found.frobenius == pytest.approx(math.sqrt(5), rel=1e-15)
    assert found.spectral == 2
    assert found.stable_rank == 1.25
    assert found.effective_rank == pytest.approx(math.exp(entropy), rel=1e-14)
    assert found.half_energy == pytest.approx(0.8, rel=1e-15)


def test_equal_singular_values_have_full_effective_rank():
    found = spectrum_of(torch.full((5,), 3.0, dtype=torch.float64), 5)
    assert found.stable_rank == pytest.approx(5)
    assert found.effective_rank == pytest.approx(5)
    assert found.half_energy == pytest.approx(3 / 5)
