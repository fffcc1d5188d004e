"""What `Delta` promises holds for every kind, those that only the tests have among them."""

from dataclasses import replace

import pytest
import torch

from loratools.deltas import Delta, keys_of, with_alpha
from loratools.deltas.lora import Scaling
from loratools.deltas.placed import Placed
from loratools.errors import ShapeMismatchError, UnsupportedError
from tests.deltas.computing import held
from tests.deltas.examples import FACTORS, change, weight_for
from tests.deltas.toys import assert_does, each_kind, parts_beside


@each_kind
@pytest.mark.parametrize("strength", [0.5, -2.0, 0.0])
def test_scaled_is_exactly_so_much_of_the_change_or_refused(delta: Delta, strength: float) -> None:
    if delta.additive is None:
        with pytest.raises(UnsupportedError, match=f"{delta.kind} depends on the weight"):
            delta.scaled(strength)
        return
    scaled = delta.scaled(strength)
    assert type(scaled) is type(delta)
    assert_does(scaled, delta, strength, near=0)


@each_kind
def test_strength_of_one_is_the_same_object(delta: Delta) -> None:
    assert delta.scaled(1.0) is delta


@each_kind
def test_strength_of_zero_is_stored_in_tensors(delta: Delta) -> None:
    """Some readers take an alpha of 0 for one that is not set."""
    if delta.additive is not None:
        assert delta.scaled(0.0).scaling == delta.scaling


@each_kind
def test_scaling_is_written_in_another_way(delta: Delta) -> None:
    if delta.scaling is None:
        with pytest.raises(UnsupportedError, match=delta.kind):
            delta.with_scaling(Scaling(1, 1, "rank", "config"))
        return
    half = replace(delta.scaling, alpha=delta.scaling.alpha / 2)
    restated = delta.with_scaling(half, 2.0)
    assert restated.scaling == half
    assert_does(restated, delta, near=0)


@each_kind
def test_alpha_of_an_additive_change_is_proportional_to_it(delta: Delta) -> None:
    if delta.scaling is None or delta.additive is None:
        with pytest.raises(UnsupportedError, match=delta.kind):
            with_alpha(delta, 3.0)
    else:
        assert_does(with_alpha(delta, 3.0), delta, 3.0 / delta.scaling.alpha, near=0)


@each_kind
def test_another_low_rank_part_leaves_the_other_parts(delta: Delta) -> None:
    lora = delta.factored()
    if lora is None:
        with pytest.raises(UnsupportedError, match=delta.kind):
            delta.with_low_rank(FACTORS)
        return
    assert_does(delta.with_low_rank(lora), delta, near=0)
    other = delta.with_low_rank(replace(lora, up=held((3 * lora.up.read()).tolist(), "up")))
    if delta.low_rank is not None:
        assert type(other) is type(delta)
        assert parts_beside(other) == parts_beside(delta)
    assert not torch.equal(change(other), change(delta))


@each_kind
def test_additive_change_is_its_rows_and_its_factors(delta: Delta) -> None:
    if delta.additive is None:
        return
    wanted = change(delta)
    for begin in range(4):
        for end in range(begin + 1, 5):
            rows = delta.additive.dense_rows(begin, end)
            assert rows.dtype == torch.float64
            assert torch.equal(rows, wanted[begin:end])
    factored = delta.additive.factored()
    if factored is not None:
        assert_does(factored, delta, near=0)


@each_kind
def test_rows_alone_are_changed_as_in_the_whole_or_refused(delta: Delta) -> None:
    assert delta.rows(0, 4) is delta
    wanted, weight = change(delta), weight_for(delta)
    for begin in range(4):
        for end in range(begin + 1, 5):
            try:
                part = delta.rows(begin, end)
            except UnsupportedError as error:
                assert delta.kind in str(error)  # noqa: PT017
                # Refused only if it needs other rows, leaves these as they are, or has parts of
                # them in two places.
                has_runs = isinstance(delta, Placed) and len(delta.runs) > 1
                assert not delta.by_rows or not wanted[begin:end].any() or has_runs
                continue
            assert part.shape == (end - begin, *delta.shape[1:])
            assert set(keys_of(part)) <= set(keys_of(delta))
            assert torch.equal(change(part, weight=weight[begin:end]), wanted[begin:end])


@each_kind
@pytest.mark.parametrize("rows", [(0, 0), (2, 1), (0, 5), (-1, 2)], ids=str)
def test_rows_that_the_weight_has_not_are_refused(delta: Delta, rows: tuple[int, int]) -> None:
    with pytest.raises(ShapeMismatchError, match="are not some of the 4 of a weight of shape"):
        delta.rows(*rows)


@each_kind
def test_stored_alpha_is_accounted_for(delta: Delta) -> None:
    if delta.scaling is not None:
        filed = replace(delta.scaling, source=held([1.0], "its.alpha"))
        assert "its.alpha" in keys_of(delta.with_scaling(filed))
