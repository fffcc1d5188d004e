"""What rounding to 16 bits loses is measured: it is what a dense computation finds."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA, Scaling
from loratools.io.computed import rearranged
from loratools.io.source import Held
from loratools.lowrank.ranks import RankRule
from loratools.parts import Update
from loratools.reshaping.rescaled import Rescaling, rescaled
from loratools.reshaping.resized import resized
from loratools.reshaping.rounding_error import rounding_error, rounding_note
from tests.adapters import effects
from tests.formats.bundles import decoded, lora

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def adapter_of(dtype: str, seed: int = 0, rank: int = 3) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for name, rows, columns in (("a.weight", 9, 7), ("b.weight", 5, 11)):
        up = torch.randn(rows, rank, generator=generator).to(TORCH[dtype])
        down = torch.randn(rank, columns, generator=generator).to(TORCH[dtype])
        scaling = Scaling(3.0, rank, "rank", "config")
        factors = Held("up", up, dtype), Held("down", down, dtype)
        updates[name] = Update(LoRA(*factors, scaling, (rows, columns)))
    return replace(decoded(lora("a")), updates=updates)


def in_float64(adapter: Adapter) -> Adapter:
    updates = {}
    for target, update in adapter.updates.items():
        delta: Any = update.delta
        up = Held("up", delta.up.read().double(), "F64")
        down = Held("down", delta.down.read().double(), "F64")
        updates[target] = replace(update, delta=replace(delta, up=up, down=down))
    return replace(adapter, updates=updates)


def difference(one: Adapter, other: Adapter) -> float:
    left, right = effects(one), effects(other)
    lost = sum(float((left[t] - right[t]).square().sum()) for t in right)
    return float((lost / sum(float(e.square().sum()) for e in right.values())) ** 0.5)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@given(seed=st.integers(0, 2**16), rank=st.integers(1, 2))
def test_error_is_that_of_the_stored_updates(dtype: str, seed: int, rank: int) -> None:
    """Beside the same truncation in float64: its own rounding is 2^-40 of this."""
    adapter = adapter_of(dtype, seed)
    stored = resized(adapter, RankRule(rank=rank)).adapter
    exact = resized(in_float64(adapter), RankRule(rank=rank)).adapter
    assert rounding_error(stored) == pytest.approx(difference(stored, exact), rel=1e-6)


def test_folding_a_scaling_of_no_power_of_two_is_said_to_round() -> None:
    adapter = adapter_of("BF16", rank=2)
    folded = rescaled(adapter, Rescaling(fold=True)).adapter
    error = rounding_error(folded)
    assert error == pytest.approx(difference(folded, adapter), rel=1e-6)
    assert error is not None
    assert 2.0**-11 < error < 2.0**-8
    assert rounding_note(folded, error) == (
        f"rounding the factors to bfloat16 adds a relative error of {error:.2g}",
    )


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_wider_factors_are_not_measured(dtype: str) -> None:
    assert rounding_error(resized(adapter_of(dtype), RankRule(rank=1)).adapter) is None


def test_factors_whose_numbers_only_move_are_exact() -> None:
    adapter = adapter_of("BF16", rank=2)
    update = adapter.updates["a.weight"]
    factors: Any = update.delta
    up = rearranged(factors.up, factors.up.shape, torch.flipud)
    moved = replace(update, delta=replace(factors, up=up))
    assert rounding_error(replace(adapter, updates={"a.weight": moved})) is None


def test_factors_as_they_were_are_exact() -> None:
    adapter = adapter_of("F16")
    assert rounding_error(rescaled(adapter, Rescaling(strength=0.3)).adapter) is None
    assert rounding_note(adapter, None) == ()


@pytest.mark.parametrize("exponent", [-1000, 1000])
def test_error_does_not_depend_on_the_size_of_the_scaling(exponent: int) -> None:
    """The square of 2^1000 is beyond float64, and that of 2^-1000 is nothing."""
    folded = rescaled(adapter_of("BF16", rank=2), Rescaling(fold=True)).adapter
    updates = {}
    for target, update in folded.updates.items():
        delta: Any = update.delta
        scaling = replace(delta.scaling, alpha=delta.scaling.alpha * 2.0**exponent)
        updates[target] = replace(update, delta=replace(delta, scaling=scaling))
    assert rounding_error(replace(folded, updates=updates)) == rounding_error(folded)
