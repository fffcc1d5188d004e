"""What is true of every method, for weights from 1 by 1 up and updates from rank 1."""

from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loratools import LoratoolsError, methods, registry
from loratools.lowrank.factored import Factored
from loratools.methods import MethodOptions, check_options
from tests.methods.tasks import CLOSE, absent, normals, run, task, updates

MODULES = {name: registry.load(methods, name) for name in registry.names(methods)}
TAKEN = {name: module.OPTIONS for name, module in MODULES.items()}
RANDOM = ("dare_linear", "dare_ties", "della")
each_method = pytest.mark.parametrize("name", MODULES)
#: Of each method; all methods together are many.
few = settings(max_examples=max(1, settings().max_examples // 3))
#: How a method is told to keep everything.
ALL = {"density": 1.0, "select_topk": 1.0}


def whole(method: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in ALL.items() if name in method.OPTIONS}


def equal(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, **CLOSE)


def fitting(name: str, parts: tuple[Factored, ...]) -> tuple[Factored, ...]:
    """Slerp takes no more than two."""
    return parts[:2] if name == "slerp" else parts


def negated(update: Factored) -> Factored:
    return Factored(-update.up, update.down)


@each_method
@few
@given(parts=updates(count=1))
def test_one_adapter_of_weight_1_at_density_1_is_itself(
    name: str, parts: tuple[Factored, ...]
) -> None:
    method = MODULES[name]
    equal(run(method, task(*parts), **whole(method)), parts[0].up @ parts[0].down)


@each_method
@few
@given(parts=updates())
def test_order_of_adapters_does_not_matter(name: str, parts: tuple[Factored, ...]) -> None:
    """For random methods when nothing is random, and for slerp halfway."""
    method, parts = MODULES[name], fitting(name, parts)
    options = whole(method) if name in RANDOM else {}
    weights = [1.0, 0.5, -2.0, 0.75][: len(parts)]
    expected = run(method, task(*parts, weights=weights), **options)
    backwards = [*range(len(parts))][::-1]
    for order in (backwards, [*backwards[1:], backwards[0]]):
        shuffled = task(*(parts[i] for i in order), weights=[weights[i] for i in order])
        equal(run(method, shuffled, **options), expected)


@each_method
@few
@given(parts=updates(), data=st.data())
def test_weight_is_the_strength_of_an_adapter(
    name: str, parts: tuple[Factored, ...], data: st.DataObject
) -> None:
    method, parts = MODULES[name], fitting(name, parts)
    weights = [data.draw(st.sampled_from([1.0, -1.0, 0.5, 2.0])) for _ in parts]
    scaled = [Factored(p.up * w, p.down) for p, w in zip(parts, weights, strict=True)]
    equal(run(method, task(*parts, weights=weights)), run(method, task(*scaled)))


@each_method
@few
@given(parts=updates(count=2))
def test_weight_of_zero_is_no_update(name: str, parts: tuple[Factored, ...]) -> None:
    method, (one, other) = MODULES[name], parts
    expected = run(method, task(one, absent(other)))
    equal(run(method, task(one, other, weights=[1.0, 0.0])), expected)


@each_method
@few
@given(parts=updates())
def test_negated_updates_give_the_negative(name: str, parts: tuple[Factored, ...]) -> None:
    method, parts = MODULES[name], fitting(name, parts)
    equal(run(method, task(*map(negated, parts))), -run(method, task(*parts)))


@each_method
@few
@given(parts=updates())
def test_lambda_and_strength_scale_the_result(name: str, parts: tuple[Factored, ...]) -> None:
    method, parts = MODULES[name], fitting(name, parts)
    expected = run(method, task(*parts))
    equal(run(method, task(*parts), lam=-2.0), -2 * expected)
    equal(run(method, task(*parts, strength=0.5), lam=4.0), 2 * expected)
    assert not run(method, task(*parts), lam=0.0).any()


@each_method
def test_zero_updates_give_zero(name: str) -> None:
    zero = Factored(torch.zeros(4, 2).double(), torch.ones(2, 3).double())
    for parts in ((zero, zero), (zero, absent(zero)), (absent(zero), absent(zero)), (zero,)):
        found = run(MODULES[name], task(*parts))
        assert found.shape == (4, 3)
        assert not found.any()


@each_method
@few
@given(parts=updates())
def test_low_rank_means_no_more_than_all_ranks(name: str, parts: tuple[Factored, ...]) -> None:
    method, parts = MODULES[name], fitting(name, parts)
    found = method.combine(task(*parts), MethodOptions())
    assert isinstance(found, Tensor) != method.LOW_RANK
    if isinstance(found, Factored):
        assert found.down.shape[0] <= sum(len(part.down) for part in parts)


@each_method
def test_same_seed_same_bytes(name: str) -> None:
    parts = [normals(seed, 40, 30, 3) for seed in range(2)]
    found = [run(MODULES[name], task(*parts, seed=seed)) for seed in (7, 7, 8)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2]) == (name not in RANDOM)


@pytest.mark.parametrize("name", RANDOM)
def test_adapters_have_random_numbers_of_their_own(name: str) -> None:
    """The second of two equal updates loses other entries than the first."""
    part = normals(0, 40, 30, 3)
    first = run(MODULES[name], task(part, absent(part)))
    second = run(MODULES[name], task(absent(part), part))
    assert not torch.equal(first == 0, second == 0)


@each_method
def test_options_of_other_methods_are_refused_by_name(name: str) -> None:
    values: dict[str, Any] = {
        "density": 0.5,
        "gamma": 0.1,
        "epsilon": 0.1,
        "rescale": False,
        "majority_sign_method": "total",
        "normalize": False,
        "lam": 2.0,
        "select_topk": 0.5,
        "t": 0.5,
    }
    for option, value in values.items():
        options = MethodOptions(**{option: value})
        if option in MODULES[name].OPTIONS:
            check_options(name, options, TAKEN)
        else:
            with pytest.raises(LoratoolsError, match=f"^{name} takes no {option}; it takes "):
                check_options(name, options, TAKEN)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("density", 0.0),
        ("density", 1.5),
        ("density", float("nan")),
        ("select_topk", -0.1),
        ("gamma", 1.0),
        ("gamma", -0.1),
        ("epsilon", 1.0),
        ("t", -0.5),
        ("t", 2.0),
        ("lam", float("inf")),
    ],
)
def test_values_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(LoratoolsError, match=f"^{option} is .*, not {value!r}$"):
        MethodOptions(**{option: value})


def test_another_way_to_elect_signs_is_refused() -> None:
    options = MethodOptions()
    object.__setattr__(options, "majority_sign_method", "sum")  # past the types of the tests
    with pytest.raises(LoratoolsError, match="is one of total, frequency, not 'sum'"):
        options.__post_init__()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "linear"])
def test_numbers_that_are_not_finite_are_refused(name: str) -> None:
    broken = Factored(torch.tensor([[float("nan")]]).double(), torch.ones(1, 1).double())
    with pytest.raises(LoratoolsError, match="w: holds a NaN or an infinity"):
        run(MODULES[name], task(broken, broken))


def test_mean_of_weights_that_add_up_to_zero_is_refused() -> None:
    parts = [normals(seed, 3, 3, 1) for seed in range(2)]
    for name in ("linear", "magnitude_prune", "breadcrumbs", "dare_linear"):
        given_task = task(*parts, weights=[1.0, -1.0])
        with pytest.raises(LoratoolsError, match=r"weights \[1.0, -1.0\] add up to 0"):
            run(MODULES[name], given_task, normalize=True)
