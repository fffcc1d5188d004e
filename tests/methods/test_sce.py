"""SCE, by hand and against its formula in float64."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.lowrank.factored import Factored
from loratools.methods import sce
from tests.methods.tasks import CLOSE, normals, result, row, run, task, updates


def formula(parts: list[Tensor], share: float) -> Tensor:
    stacked = torch.stack(parts)
    variance = stacked.var(0, correction=0).flatten()
    count = max(1, round(share * variance.numel()))
    chosen = torch.zeros_like(variance)
    chosen[variance.argsort(descending=True, stable=True)[:count]] = 1
    selected = stacked * chosen.view_as(parts[0])
    energies = selected.square().sum(dim=(1, 2))
    etas = energies / energies.sum()
    agreeing = selected * selected.sum(0) > 0
    weight = (etas[:, None, None] * agreeing).sum(0)
    mean = (etas[:, None, None] * agreeing * selected).sum(0) / weight
    return torch.where(weight > 0, mean, 0.0)


def test_four_entries_by_hand() -> None:
    """[4 1 0 2] and [0 1 3 -3] have variances 4, 0, 2.25 and 6.25; half selects the ends.

    Selected are [4 2] and [0 -3]: η = 20/29 and 9/29. The 4 stands alone; 2 - 3 is negative, so
    the 2 is erased and -3 stays.
    """
    found = result(sce, row(4, 1, 0, 2), row(0, 1, 3, -3), select_topk=0.5)
    torch.testing.assert_close(torch.tensor(found), torch.tensor([[4.0, 0, 0, -3]]))


def test_coefficients_weight_those_that_agree() -> None:
    """η = 9/10 and 1/10: 0.9·3 + 0.1·1."""
    found = result(sce, row(3), row(1), select_topk=1.0)
    torch.testing.assert_close(torch.tensor(found), torch.tensor([[2.8]]))


def test_a_tenth_is_selected_by_default() -> None:
    found = result(sce, row(*range(20)), row(*[0] * 20))[0]
    assert found == [0] * 18 + [18, 19]


def test_small_updates_are_weighted_like_large_ones() -> None:
    """mergekit takes energies that add up to less than 1e-6 for zero."""
    parts = normals(0, 20, 30, 2), normals(1, 20, 30, 2)
    small = [Factored(part.up * 2**-16, part.down) for part in parts]
    found = run(sce, task(*small)) * 2**16
    torch.testing.assert_close(found, run(sce, task(*parts)), **CLOSE)


def test_coefficients_of_large_matrices_are_summed_in_float64() -> None:
    """10⁶ equal entries: their float32 sum would be off by far more."""
    ones = Factored(torch.ones(1000, 1).double(), torch.full((1, 1000), 1.1).double())
    twos = Factored(torch.ones(1000, 1).double(), torch.full((1, 1000), 2.2).double())
    found = run(sce, task(ones, twos), select_topk=1.0)
    expected = torch.full((1000, 1000), 0.2 * 1.1 + 0.8 * 2.2).double()
    torch.testing.assert_close(found, expected, rtol=4e-7, atol=0)


@given(parts=updates(count=3), share=st.floats(0.05, 1))
def test_formula_of_the_paper(parts: tuple[Factored, ...], share: float) -> None:
    weights = (1.0, -0.5, 2.0)
    scaled = [weight * part.dense() for weight, part in zip(weights, parts, strict=True)]
    found = run(sce, task(*parts, weights=weights), select_topk=share)
    torch.testing.assert_close(found, formula(scaled, share), rtol=1e-5, atol=1e-5)


def test_one_adapter_has_nothing_to_select_from() -> None:
    part = normals(0, 20, 30, 2)
    torch.testing.assert_close(run(sce, task(part)), part.dense(), **CLOSE)
