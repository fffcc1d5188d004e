"""Laws of merging, for weights and updates of every kind, dtype and shape from 1 by 1 up."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.deltas.lora import LoRA
from loratools.io import blocks
from loratools.io.source import Held
from loratools.testing import (
    deltas,
    diffs,
    doras,
    dtypes,
    eighths,
    exact_scalings,
    loras,
    normals,
    shapes,
)
from tests.merging.computing import DTYPES, changed, changed_and_measured, computed_with
from tests.narrowing import present
from tests.reference import rounded, smallest, spacing, unit

Shape = tuple[int, ...]
EXACT: dict[str, Any] = {"tensors": eighths, "scaling": exact_scalings}


def matrix(weight: Held) -> Tensor:
    return weight.tensor.double().reshape(weight.shape[0], -1)


def dense(lora: LoRA) -> Tensor:
    """scaling * up @ down in float64, and not by way of `bind`."""
    product = torch.einsum("or,ri->oi", lora.up.read().double(), lora.down.read().double())
    return lora.scaling.value * product


def terms(lora: LoRA) -> Tensor:
    """What is summed for each element, in absolute values."""
    up, down = lora.up.read().double().abs(), lora.down.read().double().abs()
    return abs(lora.scaling.value) * up @ down


@given(data=st.data(), shape=shapes(), weight=st.floats(-2, 2).filter(lambda w: abs(w) > 2**-6))
def test_what_was_added_can_be_taken_out_again(
    data: st.DataObject, shape: Shape, weight: float
) -> None:
    """Each merge rounds once, by u of its result, after sums of `rank + 3` roundings by c of their
    terms. Terms of both merges are at most |W| + 2·Σ|w·s·B·A|.
    """
    base = data.draw(normals("weight", shape))
    lora = data.draw(loras(shape))
    merged = changed(base, (lora, weight))
    if not merged.isfinite().all():
        return  # a float16 that overflows
    back = changed(Held("merged", merged, base.dtype), (lora, -weight))
    error = 2.01 * (unit(DTYPES[base.dtype]) + (lora.rank + 3) * computed_with(base))
    allowed = error * (matrix(base).abs() + 2 * abs(weight) * terms(lora))
    distance = (back.double().reshape(matrix(base).shape) - matrix(base)).abs()
    assert (distance <= allowed + 2 * smallest(DTYPES[base.dtype])).all()


@given(data=st.data(), shape=shapes())
def test_strength_zero_is_the_weight_for_every_kind(data: st.DataObject, shape: Shape) -> None:
    base = data.draw(normals("weight", shape))
    delta = data.draw(deltas(shape))
    assert torch.equal(changed(base, (delta, 0.0)), base.tensor)


@given(data=st.data(), shape=shapes())
def test_result_is_the_float64_formula_rounded_once(data: st.DataObject, shape: Shape) -> None:
    """Half of the last bit, and what the kernel's own `rank + 3` roundings add to it."""
    base = data.draw(normals("weight", shape))
    lora = data.draw(loras(shape))
    dtype = data.draw(st.none() | dtypes())
    output = DTYPES[dtype or base.dtype]
    exact = matrix(base) + dense(lora)
    result = changed(base, (lora, 1.0), dtype=dtype).double().reshape(exact.shape)
    computed = (lora.rank + 3) * (computed_with(base, dtype) + 2.0**-53)
    allowed = spacing(exact, output) / 2 + computed * (matrix(base).abs() + terms(lora))
    within = exact.abs() < 65000  # float16 has no more
    assert ((result - exact).abs() <= allowed)[within].all()


@given(data=st.data(), shape=shapes())
def test_exact_sums_are_correctly_rounded_to_the_last_bit(
    data: st.DataObject, shape: Shape
) -> None:
    base = data.draw(eighths("weight", shape))
    lora = data.draw(loras(shape, **EXACT))
    diff = data.draw(diffs(shape, **EXACT))
    dtype = data.draw(st.none() | dtypes())
    whole = diff.values.read().double().reshape(matrix(base).shape) * diff.scaling.value
    exact = matrix(base) + dense(lora) + whole
    result = changed(base, (lora, 1.0), (diff, 1.0), dtype=dtype)
    expected = rounded(exact, DTYPES[dtype or base.dtype]).reshape(shape)
    assert torch.equal(result, expected)


@given(data=st.data(), shape=shapes(), seed=st.none() | st.integers(0, 9))
def test_blocks_and_spans_do_not_show_in_the_bytes(
    data: st.DataObject, shape: Shape, seed: int | None
) -> None:
    """With exact sums, as the rounding of others may depend on the block: BLAS decides it."""
    base = data.draw(eighths("weight", shape))
    changes = [
        (data.draw(strategy), 1.0) for strategy in (loras(shape, **EXACT), deltas(shape, **EXACT))
    ]
    cuts = data.draw(st.sets(st.integers(1, shape[0])).map(sorted))
    if not all(delta.by_rows for delta, _ in changes):
        cuts = []
    whole = changed(base, *changes, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", data.draw(st.integers(1, 20)))
        pieces = changed(base, *changes, seed=seed, cuts=cuts)
    assert torch.equal(whole.view(torch.uint8), pieces.view(torch.uint8))


@given(data=st.data(), shape=shapes(), seed=st.none() | st.integers(0, 9))
def test_additive_updates_may_come_in_any_order(
    data: st.DataObject, shape: Shape, seed: int | None
) -> None:
    base = data.draw(eighths("weight", shape))
    kind = loras(shape, **EXACT) | diffs(shape, **EXACT)
    changes = data.draw(
        st.lists(st.tuples(kind, st.sampled_from((-1.0, 0.5, 1.0))), min_size=2, max_size=4)
    )
    other = data.draw(st.permutations(changes))
    one, two = changed(base, *changes, seed=seed), changed(base, *other, seed=seed)
    assert torch.equal(one.view(torch.uint8), two.view(torch.uint8))


@given(data=st.data(), shape=shapes())
def test_strengths_of_one_update_add_up(data: st.DataObject, shape: Shape) -> None:
    base = data.draw(eighths("weight", shape))
    lora = data.draw(loras(shape, **EXACT))
    once = changed(base, (lora, 0.75))
    assert torch.equal(once, changed(base, (lora, 0.5), (lora, 0.25)))


@given(data=st.data(), shape=shapes())
def test_dora_gives_rows_or_columns_their_magnitudes_as_norms_whatever_came_before(
    data: st.DataObject, shape: Shape
) -> None:
    """Relative errors: u of each element and so of a norm; of the kernel `ranks + n + 6` roundings,
    of the terms that were summed, which a sum that nearly cancels has more of than its result.
    """
    base = data.draw(normals("weight", shape))
    before, delta = data.draw(loras(shape)), data.draw(doras(shape))
    dtype, lora = DTYPES[base.dtype], present(delta.low_rank)

    def norms(weight: Tensor) -> Tensor:
        rows = weight.reshape(*shape[:2], -1).transpose(0, 1 if delta.axis == "column" else 0)
        return rows.flatten(1).square().sum(dim=1).sqrt()

    magnitude = delta.magnitude.read().double().abs()
    summed = norms(matrix(base).abs() + terms(before) + terms(lora))
    cancelled = summed / norms(matrix(base) + dense(before) + dense(lora))
    squares = math.prod(shape) // len(magnitude)
    roundings = before.rank + lora.rank + squares + 6
    error = unit(dtype) + roundings * computed_with(base) * cancelled
    allowed = magnitude * error * 1.01 + squares * smallest(dtype)
    result = changed(base, (before, 1.0), (delta, 1.0)).double()
    assert ((norms(result) - magnitude).abs() <= allowed).all()


@given(data=st.data(), shape=shapes().filter(lambda shape: len(shape) == 2))
def test_transposed_change_is_the_change_of_the_transposed_weight(
    data: st.DataObject, shape: Shape
) -> None:
    """Sums are exact; a norm of n squares has n / 2 + 1 roundings, the factor and product three."""
    base = data.draw(eighths("weight", shape, "F64"))
    delta = data.draw(loras(shape, **EXACT) | doras(shape, **EXACT))
    other = Held("weight", base.tensor.T.contiguous(), "F64")
    result = changed(base, (delta, 1.0)).T
    allowed = (max(shape) + 4) * 2.0**-53 * result.abs()
    assert ((changed(other, (delta.transposed(), 1.0)) - result).abs() <= allowed).all()


@given(data=st.data(), shape=shapes(), seed=st.integers(0, 9))
def test_stochastic_result_is_a_neighbour_of_the_exact_one(
    data: st.DataObject, shape: Shape, seed: int
) -> None:
    base = data.draw(eighths("weight", shape))
    lora = data.draw(loras(shape, **EXACT))
    exact = matrix(base) + dense(lora)
    result = changed(base, (lora, 1.0), seed=seed).double().reshape(exact.shape)
    quantum = spacing(exact, DTYPES[base.dtype])
    below, above = torch.floor(exact / quantum) * quantum, torch.ceil(exact / quantum) * quantum
    assert ((result == below) | (result == above)).all()


@given(data=st.data(), shape=shapes())
def test_fidelity_is_that_of_the_realised_update(data: st.DataObject, shape: Shape) -> None:
    """Sums of exact differences: their errors are a few 2^-24 of them, and of their terms."""
    base = data.draw(eighths("weight", shape))
    lora = data.draw(loras(shape, **EXACT))
    result, fidelity = changed_and_measured(base, (lora, 1.0))
    realised = result.double().reshape(matrix(base).shape) - matrix(base)
    intended = dense(lora)
    total = float((realised.square() + intended.square()).sum())
    close = 2.0**-20 * total
    assert fidelity.intended == pytest.approx(float(intended.square().sum()), abs=close)
    assert fidelity.error == pytest.approx(float((realised - intended).square().sum()), abs=close)
    assert fidelity.product == pytest.approx(float((realised * intended).sum()), abs=close)


def test_conversion_alone_keeps_the_sign_of_zero() -> None:
    base = Held("weight", torch.tensor([[-0.0, 0.0, -1.0]]).bfloat16(), "BF16")
    assert torch.equal(torch.signbit(changed(base, dtype="F32")), torch.signbit(base.tensor))


@given(data=st.data(), shape=shapes())
def test_inputs_are_left_as_they_are(data: st.DataObject, shape: Shape) -> None:
    base = data.draw(normals("weight", shape))
    delta = data.draw(deltas(shape))
    before = [source.read().clone() for source in (base, *delta.sources)]
    changed(base, (delta, 0.5))
    after = [source.read() for source in (base, *delta.sources)]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
