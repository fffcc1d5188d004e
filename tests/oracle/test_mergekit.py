"""Methods equal mergekit's functions on dense updates where mergekit follows the paper.

mergekit needs other versions of what the tests need, so this is run by hand, where both are found.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from loratools.lowrank.factored import Factored
from loratools.methods import breadcrumbs, dare_linear, della, magnitude_prune, sce, slerp, ties
from tests.methods.tasks import Tolerance, normals, row, run, task

sparsify = pytest.importorskip("mergekit.sparsify")
arithmetic = pytest.importorskip("mergekit.merge_methods.generalized_task_arithmetic")
theirs_sce = pytest.importorskip("mergekit.merge_methods.sce")
theirs_slerp = pytest.importorskip("mergekit.merge_methods.slerp")

pytestmark = pytest.mark.oracle

PARTS = [normals(seed, 200, 300, 4) for seed in range(3)]
NEAR: Tolerance = {"rtol": 4e-6, "atol": 4e-6}


def dense(parts: list[Factored]) -> list[Tensor]:
    return [part.dense().float() for part in parts]


@pytest.mark.parametrize("density", [0.5, 0.2])
def test_magnitude(density: float) -> None:
    expected = sum(sparsify.magnitude(part, density) for part in dense(PARTS))
    found = run(magnitude_prune, task(*PARTS), density=density)
    torch.testing.assert_close(found.float(), expected, **NEAR)


@pytest.mark.parametrize(("majority", "method"), [("total", "sum"), ("frequency", "count")])
def test_ties(majority: Any, method: str) -> None:
    """With weights of 1; where the vote is a draw mergekit elects the positive sign."""
    deltas = torch.stack([sparsify.magnitude(part, 0.2) for part in dense(PARTS)])
    mask = arithmetic.get_mask(deltas, method=method)
    divisor = mask.sum(0)
    expected = (deltas * mask).sum(0) / divisor.clamp(min=1)
    decided = (deltas.sign() if method == "count" else deltas).sum(0) != 0
    found = run(ties, task(*PARTS), density=0.2, majority_sign_method=majority).float()
    torch.testing.assert_close(found[decided], expected[decided], **NEAR)
    assert not found[~decided].any()


@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.1), (0.14, 0.01), (0.5, 0.0)])
def test_breadcrumbs(density: float, gamma: float) -> None:
    expected = sum(sparsify.magnitude_outliers(part, density, gamma=gamma) for part in dense(PARTS))
    found = run(breadcrumbs, task(*PARTS), density=density, gamma=gamma)
    torch.testing.assert_close(found.float(), expected, **NEAR)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_sce(share: float) -> None:
    deltas = torch.stack(dense(PARTS))
    if share < 1:
        deltas = deltas * theirs_sce.sce_mask(deltas, share)
    mask = arithmetic.get_mask(deltas, method="sum")
    weights = theirs_sce.sce_weight(deltas)[:, None, None] * mask
    expected = (deltas * weights).sum(0) / weights.sum(0).clamp(min=1e-6)
    found = run(sce, task(*PARTS), select_topk=share)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_mergekit_weights_small_updates_alike() -> None:
    """Squares of 3e-4 and 1e-4 add up to 1e-7: 1/2 each, where the paper has 9/10 and 1/10."""
    deltas = torch.tensor([[[3e-4]], [[1e-4]]])
    assert theirs_sce.sce_weight(deltas).tolist() == [0.5, 0.5]
    found = run(sce, task(row(3e-4), row(1e-4)), select_topk=1.0)
    torch.testing.assert_close(found, torch.tensor([[2.8e-4]]).double())


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp(t: float) -> None:
    one, other = dense(PARTS)[:2]
    expected = theirs_slerp.slerp(torch.tensor([t]), one[None], other[None])[0]
    found = run(slerp, task(*PARTS[:2]), t=t)
    torch.testing.assert_close(found.float(), expected, **NEAR)


def test_mergekit_rescales_to_the_norm_instead_of_the_probability() -> None:
    """Both keep about a fifth of the L1 norm, then make up for it; ours by 5, theirs exactly."""
    part = PARTS[0]
    theirs = sparsify.bernoulli(dense([part])[0], 0.2, sparsify.RescaleNorm.l1)
    assert theirs.abs().sum().item() == pytest.approx(part.dense().abs().sum().item(), rel=1e-5)
    ours = run(dare_linear, task(part), density=0.2)
    kept = ours != 0
    torch.testing.assert_close(ours[kept], 5 * part.dense()[kept], **NEAR)


def test_half_of_the_window_is_what_mergekit_calls_epsilon() -> None:
    """Without rescaling: the same shares of the smallest and of the largest entries of rows."""
    part = normals(5, 4000, 10, 3)
    theirs = sparsify.della_magprune(dense([part])[0], 0.5, 0.15)
    ours = run(della, task(part), density=0.5, epsilon=0.3, rescale=False)
    order = part.dense().abs().argsort(dim=1)
    for found in (theirs, ours):
        shares = (found != 0).double().gather(1, order).mean(0)
        expected = torch.linspace(0.35, 0.65, 10).double()
        assert ((shares - expected).abs() < 5 * 0.0079).all()  # 5 · √(p (1 - p) / 4000)
