"""Every update at another rank is the best approximation there is, as strong as before."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.adapter import Adapter
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import Scaling
from loratools.deltas.tucker import Tucker
from loratools.errors import NonFiniteError, UnsupportedError
from loratools.io.source import Held
from loratools.lowrank.ranks import RankRule
from loratools.lowrank.truncation import together
from loratools.parts import Update
from loratools.reshaping.resized import resized
from loratools.running.parallel import threads
from loratools.testing import adapters, loras, normals
from tests.adapters import effects
from tests.deltas.computing import applied
from tests.formats.bundles import decoded, lora

SHAPES = {"a.weight": (7, 5), "b.weight": (3, 3), "c.weight": (4, 2, 3)}
EPS = 2.0**-52


def exact(adapter: Adapter) -> Adapter:
    """Low-rank parts alone, in float64, so that results are not rounded to less."""
    updates = {}
    for target, update in adapter.updates.items():
        low_rank = update.delta.low_rank
        assert low_rank is not None
        up = Held("up", low_rank.up.read().double(), "F64")
        down = Held("down", low_rank.down.read().double(), "F64")
        updates[target] = Update(replace(low_rank, up=up, down=down))
    return replace(adapter, updates=updates)


def rank_of(adapter: Adapter, target: str) -> int:
    low_rank = adapter.updates[target].delta.low_rank
    assert low_rank is not None
    return low_rank.rank


def room(effect: torch.Tensor, delta: Any) -> float:
    """What float64 may be off: eps of the factors' norms, for their size."""
    up, down = delta.up.read().double().norm(), delta.down.read().double().norm()
    return float(256 * EPS * up * down * abs(delta.scaling.value)) + 0 * effect.numel()


@given(adapter=adapters(SHAPES), rank=st.integers(1, 5))
def test_error_is_the_tail_of_the_singular_values(adapter: Adapter, rank: int) -> None:
    """Eckart and Young: no other update of this rank is nearer."""
    adapter = exact(adapter)
    found = resized(adapter, RankRule(rank=rank))
    for target, effect in effects(adapter).items():
        after = effects(found.adapter)[target]
        tail = torch.linalg.svdvals(effect)[rank:].norm()
        allowed = room(effect, adapter.updates[target].delta)
        assert float((after - effect).norm()) == pytest.approx(float(tail), abs=allowed)
        assert rank_of(found.adapter, target) == rank


@pytest.mark.parametrize("axis", ["row", "column"])
def test_dora_around_a_core_keeps_its_norms_around_the_nearest_lora(axis: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    up, core, down, magnitude, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((6, 4), (4, 3, 3, 3), (3, 5), (6 if axis == "row" else 5,), (6, 5, 3, 3))
    )
    stored = [Held(str(part.shape), part, "F64") for part in (up, core, down, magnitude)]
    tucker = Tucker(stored[0], stored[1], stored[2], Scaling(2.0, 3, "rank", "tensor"))
    dora = DoRA(tucker, stored[3], axis)
    adapter = replace(decoded(lora("q")), updates={"conv.weight": Update(dora)})
    added = torch.einsum("om,mnk,ni->oik", up, core.flatten(2), down).flatten(1) * 2 / 3
    left, values, right = torch.linalg.svd(added, full_matrices=False)
    for rank in (2, 4):
        nearest = (left[:, :rank] * values[:rank]) @ right[:rank]
        moved = weight + nearest.reshape(weight.shape)
        norms = torch.linalg.vector_norm(moved, dim=(1, 2, 3) if axis == "row" else (0, 2, 3))
        factors = (magnitude / norms).reshape((-1, 1, 1, 1) if axis == "row" else (1, -1, 1, 1))
        found = resized(adapter, RankRule(rank=rank))
        after = applied(found.adapter.updates["conv.weight"].delta, weight)
        torch.testing.assert_close(after, (factors * moved).flatten(1))
        assert any("what it adds before the norms are set" in note for note in found.notes)


@given(adapter=adapters(SHAPES), rank=st.integers(1, 5))
def test_certificate_is_the_error_that_is_measured(adapter: Adapter, rank: int) -> None:
    adapter = exact(adapter)
    found = resized(adapter, RankRule(rank=rank))
    lost = total = allowed = 0.0
    for target, effect in effects(adapter).items():
        error = float((effects(found.adapter)[target] - effect).norm())
        certificate = found.truncations[target]
        slack = room(effect, adapter.updates[target].delta)
        assert certificate.lost**0.5 == pytest.approx(error, abs=slack)
        assert certificate.total**0.5 == pytest.approx(float(effect.norm()), abs=slack)
        lost, total, allowed = lost + error**2, total + float(effect.norm()) ** 2, allowed + slack
    assert together(found.truncations.values()).lost ** 0.5 == pytest.approx(lost**0.5, abs=allowed)


@given(adapter=adapters(SHAPES))
def test_full_rank_is_the_identity_to_the_bit(adapter: Adapter) -> None:
    adapter = exact(adapter)
    for target in adapter.updates:
        only = replace(adapter, updates={target: adapter.updates[target]})
        found = resized(only, RankRule(rank=rank_of(only, target))).adapter
        assert found.updates[target].delta.sources == only.updates[target].delta.sources


@given(adapter=adapters(SHAPES), extra=st.integers(1, 9))
def test_rank_that_grows_is_filled_with_zeros(adapter: Adapter, extra: int) -> None:
    adapter = exact(adapter)
    found = resized(adapter, RankRule(rank=4 + extra)).adapter
    for target, effect in effects(adapter).items():
        assert rank_of(found, target) == 4 + extra
        before, after = adapter.updates[target].delta, found.updates[target].delta
        assert after.low_rank is not None
        assert before.low_rank is not None
        up = before.low_rank.up.read()
        assert torch.equal(after.low_rank.up.read()[:, : up.shape[1]], up)
        torch.testing.assert_close(effects(found)[target], effect, rtol=8 * EPS, atol=1e-300)


@given(adapter=adapters(SHAPES), rank=st.integers(1, 5))
def test_scaling_stays(adapter: Adapter, rank: int) -> None:
    """alpha / rank is divided and multiplied: two roundings."""
    found = resized(exact(adapter), RankRule(rank=rank)).adapter
    for target, update in adapter.updates.items():
        before, after = update.delta.low_rank, found.updates[target].delta.low_rank
        assert before is not None
        assert after is not None
        assert after.scaling.value == pytest.approx(before.scaling.value, rel=4 * EPS)


@given(adapter=adapters(SHAPES), rank=st.integers(1, 3))
def test_factors_of_a_truncation_have_one_norm(adapter: Adapter, rank: int) -> None:
    """Balanced, which keeps float16 from under- and overflowing."""
    adapter = exact(adapter)
    found = resized(adapter, RankRule(rank=rank)).adapter
    for target, update in found.updates.items():
        lora = update.delta.low_rank
        assert lora is not None
        if rank < rank_of(adapter, target):
            up, down = lora.up.read().norm(dim=0), lora.down.read().norm(dim=1)
            allowed = 1e-4 * float(up.max() + down.max())
            torch.testing.assert_close(up, down, rtol=1e-6, atol=allowed)


@given(delta=loras((6, 4), tensors=normals).filter(lambda delta: delta.rank > 1))
def test_factors_are_rounded_once_to_the_dtype_they_had(delta: Any) -> None:
    adapter = replace(decoded(lora("a")), updates={"a.weight": Update(delta)})
    found = resized(adapter, RankRule(rank=1)).adapter.updates["a.weight"].delta.low_rank
    assert found is not None
    dtypes = {delta.up.dtype, delta.down.dtype}
    expected = dtypes.pop() if len(dtypes) == 1 else ("F64" if "F64" in dtypes else "F32")
    assert {found.up.dtype, found.down.dtype} == {expected}


def test_threads_do_not_change_a_bit() -> None:
    pairs = [lora(f"l.{number}.q", rows=9, columns=7) for number in range(8)]
    adapter = decoded({key: shape for pair in pairs for key, shape in pair.items()})
    alone = resized(adapter, RankRule(rank=1)).adapter
    with threads(2) as each:
        shared = resized(adapter, RankRule(rank=1), each).adapter
    for target, update in alone.updates.items():
        twins = shared.updates[target].delta.sources
        for one, other in zip(update.delta.sources, twins, strict=True):
            assert torch.equal(one.read(), other.read())


def test_zero_update_keeps_a_rank_of_one() -> None:
    adapter = decoded(lora("a"))
    update = adapter.updates["a.weight"]
    low_rank = update.delta.low_rank
    assert low_rank is not None
    zero = replace(low_rank, up=Held("up", torch.zeros(4, 2), "F32"))
    found = resized(replace(adapter, updates={"a.weight": Update(zero)}), RankRule(energy=0.5))
    assert rank_of(found.adapter, "a.weight") == 1
    assert found.truncations["a.weight"].error == 0


def test_nan_is_refused_by_name() -> None:
    adapter = decoded(lora("a"))
    low_rank = adapter.updates["a.weight"].delta.low_rank
    assert low_rank is not None
    broken = replace(low_rank, up=Held("up", torch.full((4, 2), torch.nan), "F32"))
    with pytest.raises(NonFiniteError, match=r"^up: holds a NaN"):
        resized(replace(adapter, updates={"a.weight": Update(broken)}), RankRule(rank=1))


def test_dora_is_resized_inside_and_says_so() -> None:
    adapter = decoded(lora("a"))
    low_rank = adapter.updates["a.weight"].delta.low_rank
    assert low_rank is not None
    dora = DoRA(low_rank, Held("m", torch.ones(4), "F32"), "row")
    found = resized(replace(adapter, updates={"a.weight": Update(dora)}), RankRule(rank=1))
    assert isinstance(found.adapter.updates["a.weight"].delta, DoRA)
    assert rank_of(found.adapter, "a.weight") == 1
    assert "before the norms" in found.notes[0]


def test_kasa_is_refused_by_name() -> None:
    adapter = decoded(lora("a"))
    low_rank = adapter.updates["a.weight"].delta.low_rank
    assert low_rank is not None
    kasa = KaSA(low_rank, Held("d", torch.ones(2), "F32"))
    with pytest.raises(UnsupportedError, match=r"a\.weight: KaSA"):
        resized(replace(adapter, updates={"a.weight": Update(kasa)}), RankRule(rank=1))


def test_adapter_that_cannot_be_merged_exactly_is_refused() -> None:
    """The update of a PiSSA is not its product: that of its beginning is taken out of the base."""
    with pytest.raises(UnsupportedError, match="started from a changed base"):
        resized(decoded(lora("a"), init_lora_weights="pissa"), RankRule(rank=1))
