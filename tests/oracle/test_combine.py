"""Methods equal those of PEFT on dense updates where PEFT follows the paper; or both are shown."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loratools.lowrank.factored import Factored
from loratools.methods import linear, magnitude_prune, ties
from tests.methods.tasks import normals, row, run, task
from tests.oracles import WARNED, oracle

oracle("peft")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from peft.utils import merge_utils  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

#: Density times size is whole for these, so that rounding down is not seen.
DENSITIES = [0.5, 0.2]


def updates(m: int, n: int) -> list[Factored]:
    return [normals(seed, m, n, 4) for seed in range(3)]


def dense(parts: list[Factored]) -> list[Tensor]:
    return [part.dense().float() for part in parts]


@pytest.mark.parametrize("shape", [(30, 20), (200, 300)])
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("majority", ["total", "frequency"])
def test_ties_with_equal_weights(shape: Any, density: float, majority: Any) -> None:
    """Signs that add up to exactly 0 are left out: PEFT takes them for positive."""
    parts = updates(*shape)[:3]
    theirs = merge_utils.ties(dense(parts), torch.full((3,), 0.5), density, majority)
    ours = run(
        ties, task(*parts, weights=[0.5] * 3), density=density, majority_sign_method=majority
    )
    trimmed = [merge_utils.prune(part, density, "magnitude") for part in dense(parts)]
    votes = torch.stack(trimmed).sign() if majority == "frequency" else torch.stack(trimmed)
    decided = votes.sum(0) != 0
    torch.testing.assert_close(ours[decided].float(), theirs[decided], rtol=2e-6, atol=2e-6)
    assert not ours[~decided].any()


@pytest.mark.parametrize("shape", [(30, 20), (200, 300)])
@pytest.mark.parametrize("density", DENSITIES)
def test_magnitude_prune(shape: Any, density: float) -> None:
    parts, weights = updates(*shape), [0.7, -0.4, 2.0]
    theirs = merge_utils.magnitude_prune(dense(parts), torch.tensor(weights), density)
    ours = run(magnitude_prune, task(*parts, weights=weights), density=density)
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-6, atol=4e-6)


def test_peft_elects_without_weights() -> None:
    """Of 1 and -2 with weights 3 and 1: the weighted sum is 1, PEFT's is -1."""
    parts = [row(1.0, 1.0), row(-2.0, 1.0)]
    with pytest.warns(UserWarning, match="no pruning"):
        theirs = merge_utils.ties(dense(parts), torch.tensor([3.0, 1.0]), 1.0)
    assert theirs.tolist() == [[-2.0, 2.0]]
    assert run(ties, task(*parts, weights=[3.0, 1.0]), density=1.0).tolist() == [[3.0, 2.0]]


def test_peft_rounds_down_and_may_keep_nothing() -> None:
    part = row(1.0, 2.0, 3.0)
    theirs = [merge_utils.prune(part.dense(), density, "magnitude") for density in (0.3, 0.6)]
    assert [found.tolist() for found in theirs] == [[[0, 0, 0]], [[0, 0, 3]]]
    ours = [run(magnitude_prune, task(part), density=density) for density in (0.3, 0.6)]
    assert [found.tolist() for found in ours] == [[[0, 0, 3]], [[0, 2, 3]]]


def test_peft_elects_a_sign_where_the_sum_is_zero() -> None:
    parts = [row(2.0), row(-2.0)]
    with pytest.warns(UserWarning, match="no pruning"):
        theirs = merge_utils.ties(dense(parts), torch.ones(2), 1.0)
    assert theirs.tolist() == [[2.0]]
    assert run(ties, task(*parts), density=1.0).tolist() == [[0.0]]


# Whole adapters


def two_adapters(**config: Any) -> tuple[PeftModel, list[Factored]]:
    """A model with adapters `first` and `second`, and their updates with the scaling in them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20, bias=False))
    settings = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False, **config)
    wrapped = get_peft_model(model, settings, adapter_name="first")
    wrapped.add_adapter("second", settings)
    layer: Any = wrapped.get_base_model()[0]  # type: ignore[index]  # of nn.Sequential
    return wrapped, [
        Factored(
            layer.scaling[name] * layer.lora_B[name].weight.detach().double(),
            layer.lora_A[name].weight.detach().double(),
        )
        for name in ("first", "second")
    ]


def combined(model: PeftModel, kind: str, **how: Any) -> Tensor:
    model.add_weighted_adapter(
        ["first", "second"], [1.0, 1.0], "both", combination_type=kind, **how
    )
    layer: Any = model.get_base_model()[0]  # type: ignore[index]  # of nn.Sequential
    found: Tensor = layer.get_delta_weight("both").detach().double()
    return found


@pytest.mark.parametrize("alpha", [2, 4, 8])
def test_ties_and_the_sum_of_whole_adapters(alpha: int) -> None:
    """PEFT's `_svd` types, at full rank; what is left is the rounding of its float32 SVD."""
    model, parts = two_adapters(lora_alpha=alpha)
    theirs = combined(model, "ties_svd", density=0.5, svd_rank=20)
    ours = run(ties, task(*parts), density=0.5)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    model, parts = two_adapters(lora_alpha=alpha)
    theirs = combined(model, "svd", svd_rank=20)
    torch.testing.assert_close(theirs, run(linear, task(*parts)), rtol=1e-4, atol=1e-4)


def test_peft_stores_rslora_too_strong() -> None:
    """The copied `use_rslora` makes alpha = rank = 20 a scaling of √20, which nothing undoes."""
    model, parts = two_adapters(lora_alpha=8, use_rslora=True)
    theirs = combined(model, "svd", svd_rank=20)
    ours = run(linear, task(*parts))
    torch.testing.assert_close(theirs, ours * 20**0.5, rtol=1e-4, atol=1e-3)


def test_peft_adds_exactly_by_concatenation_only() -> None:
    model, parts = two_adapters(lora_alpha=4)
    exact = run(linear, task(*parts))
    torch.testing.assert_close(combined(model, "cat"), exact, rtol=1e-5, atol=1e-5)
    model, _ = two_adapters(lora_alpha=4)
    assert (combined(model, "linear") - exact).norm() > 0.5 * exact.norm()
