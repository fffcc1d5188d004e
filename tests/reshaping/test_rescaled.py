"""Strengths go into alpha; other ways to store an update leave it as it is."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.adapter import Adapter
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import Scaling
from loratools.errors import LoratoolsError, MatchError, NonFiniteError, UnsupportedError
from loratools.files.opening import open_adapter
from loratools.formats import encode
from loratools.io.source import Held
from loratools.parts import Replacement, Update
from loratools.reshaping.rescaled import Rescaling, rescaled, strengths_of
from loratools.testing import adapters, loras
from tests.adapters import effects, lora_of
from tests.formats.bundles import decoded, lora

SHAPES = {"a.0.q.weight": (4, 3), "a.1.q.weight": (5, 5), "b.conv.weight": (3, 2, 3)}
NAMES = {**lora("a.0.q"), **lora("a.1.q"), **lora("b.v")}
#: Numbers of few bits: products with them are exact, until they are subnormal.
dyadic = st.integers(-64, 64).map(lambda number: number / 16)


def additive(adapter: Adapter) -> Adapter:
    """The low-rank parts alone."""
    updates = {
        target: replace(update, delta=lora_of(update)) for target, update in adapter.updates.items()
    }
    return replace(adapter, updates=updates)


def plain(**fields: Any) -> Adapter:
    return decoded(NAMES, **fields)


def scalings(adapter: Adapter) -> Sequence[Scaling]:
    return [u.delta.low_rank.scaling for u in adapter.updates.values() if u.delta.low_rank]


def assert_effects(after: Adapter, before: Adapter, times: float = 1.0, bits: int = 52) -> None:
    """As before times a factor, up to a few roundings to so many bits."""
    expected = effects(before)
    for target, effect in effects(after).items():
        allowed = 4 * 2.0**-bits
        wanted = expected[target] * times
        # The terms of an entry may cancel, so what rounds is their size and not that of their sum.
        size = float(wanted.abs().max())
        torch.testing.assert_close(effect, wanted, rtol=allowed, atol=8 * allowed * size)


@given(adapter=adapters(SHAPES), strength=dyadic)
def test_update_is_multiplied_by_the_strength(adapter: Adapter, strength: float) -> None:
    adapter = additive(adapter)
    found = rescaled(adapter, Rescaling(strength=strength))
    assert_effects(found.adapter, adapter, strength)
    assert set(found.strengths.values()) == {strength}


@given(adapter=adapters(SHAPES), strength=dyadic.filter(bool))
def test_strength_leaves_the_stored_factors_alone(adapter: Adapter, strength: float) -> None:
    adapter = additive(adapter)
    found = rescaled(adapter, Rescaling(strength=strength)).adapter
    for target, update in adapter.updates.items():
        assert found.updates[target].delta.sources == update.delta.sources


@given(adapter=adapters(SHAPES))
def test_no_change_is_the_identity(adapter: Adapter) -> None:
    assert vars(rescaled(adapter, Rescaling()).adapter) == vars(adapter)


def test_strength_zero_is_written_in_the_factors() -> None:
    """Some readers take an alpha of 0 for one that is not set."""
    found = rescaled(plain(), Rescaling(strength=0)).adapter
    assert [scaling.alpha for scaling in scalings(found)] == [4, 4, 4]
    assert all(not effect.any() for effect in effects(found).values())


def test_alpha_is_set_and_the_report_says_what_it_does() -> None:
    found = rescaled(plain(alpha_pattern={"b.v": 2}), Rescaling(alpha=1))
    assert [scaling.alpha for scaling in scalings(found.adapter)] == [1, 1, 1]
    assert list(found.strengths.values()) == [0.25, 0.25, 0.5]


@pytest.mark.parametrize("how", [{}, {"rule": "rslora"}, {"balance": True}], ids=str)
def test_strength_that_stays_takes_nothing_of_an_update_whose_alpha_is_zero(how: Any) -> None:
    """Some converters write 0 where none was set: the factors are all that is left of it."""
    found = rescaled(plain(lora_alpha=0), Rescaling(**how)).adapter
    assert all(update.delta.low_rank.up.read().any() for update in found.updates.values())  # type: ignore[union-attr]


def test_alpha_after_zero_is_infinitely_stronger() -> None:
    found = rescaled(plain(lora_alpha=0), Rescaling(alpha=1))
    assert set(found.strengths.values()) == {math.inf}
    assert [scaling.alpha for scaling in scalings(found.adapter)] == [1, 1, 1]


def test_a_strength_that_no_alpha_can_have_is_refused_with_the_name_of_the_target() -> None:
    with pytest.raises(NonFiniteError, match=r"a\.0\.q\.weight: no number holds its ") as caught:
        rescaled(plain(), Rescaling(strength=1e308, alpha=1e308))
    assert caught.value.hint == "use a smaller one"


@given(delta=loras((4, 3)))
def test_fold_leaves_the_update_and_a_scaling_of_one(delta: Any) -> None:
    """`up` is rounded once to its dtype, or overflows in float16 and says so when it is written."""
    bits = {"F16": 10, "BF16": 7, "F32": 23, "F64": 52}
    adapter = replace(plain(), updates={"a": Update(delta)})
    found = rescaled(adapter, Rescaling(fold=True)).adapter
    (scaling,) = scalings(found)
    assert scaling.value == 1
    assert scaling.alpha == scaling.rank == delta.rank
    if effects(found)["a"].isfinite().all():
        up = lora_of(found.updates["a"]).up.read().double()
        wanted = delta.up.read().double() * delta.scaling.value
        smallest = 2.0**-24 if delta.up.dtype == "F16" else 2.0**-149
        torch.testing.assert_close(
            up, wanted, rtol=2.0 ** -(bits[delta.up.dtype] + 1), atol=smallest
        )


@pytest.mark.parametrize("rule", ["alpha-over-rank", "rslora"])
@given(adapter=adapters(SHAPES))
def test_rule_leaves_the_update(rule: Any, adapter: Adapter) -> None:
    found = rescaled(adapter, Rescaling(rule=rule)).adapter
    assert_effects(found, adapter)
    assert {scaling.rule for scaling in scalings(found)} == {
        {"alpha-over-rank": "rank", "rslora": "sqrt_rank"}[rule]
    }


@given(delta=loras((6, 5)), shift=st.integers(-6, 6))
def test_balance_leaves_the_update_to_the_bit_and_makes_norms_alike(delta: Any, shift: int) -> None:
    """By a power of two up, and as much down, so nothing is rounded and the ratio changes by 4.
    The norms end within a factor of 2.
    """
    up = Held("up", delta.up.read().double() * 2.0**shift, "F64")
    down = Held("down", delta.down.read().double(), "F64")
    adapter = replace(plain(), updates={"a": Update(replace(delta, up=up, down=down))})
    found = rescaled(adapter, Rescaling(balance=True)).adapter
    torch.testing.assert_close(effects(found)["a"], effects(adapter)["a"], rtol=0, atol=0)
    lora = found.updates["a"].delta.low_rank
    assert lora is not None
    ratio = float(lora.up.read().norm() / lora.down.read().norm())
    assert 0.499 <= ratio <= 2.001 or math.isnan(ratio)


@pytest.mark.parametrize("alpha", [2.0**-12, 2.0**12])
def test_norms_are_balanced_with_the_scaling_that_is_folded_in(alpha: float) -> None:
    found = rescaled(plain(lora_alpha=alpha), Rescaling(fold=True, balance=True)).adapter
    for update in found.updates.values():
        lora = update.delta.low_rank
        assert lora is not None
        assert 0.499 <= float(lora.up.read().norm() / lora.down.read().norm()) <= 2.001


def test_balance_of_a_zero_update_is_the_update() -> None:
    adapter = rescaled(plain(), Rescaling(strength=0)).adapter
    assert all(
        not effect.any()
        for effect in effects(rescaled(adapter, Rescaling(balance=True)).adapter).values()
    )


def test_last_glob_that_matches_counts() -> None:
    where = [("a.*", 2.0), ("*.1.*", 3.0)]
    found = rescaled(plain(), Rescaling(strength=0.5, where=where))
    assert list(found.strengths.values()) == [1.0, 1.5, 0.5]


def test_glob_matches_the_name_of_the_weight_or_of_its_module() -> None:
    targets = ("a.q.weight", "a.q.bias", "b.q.weight")
    assert list(strengths_of(targets, [("*.q", 2.0)]).values()) == [2, 2, 2]
    assert list(strengths_of(targets, [("a.q.weight", 2.0)]).values()) == [2, 1, 1]


def test_glob_that_matches_nothing_is_an_error_with_names() -> None:
    with pytest.raises(MatchError, match=r"'\*.mlp.\*'\] matches no target; nearest: a\.0\.q"):
        rescaled(plain(), Rescaling(where=[("*.mlp.*", 2.0)]))


def test_bias_is_scaled_with_its_module() -> None:
    scaling = Scaling(4, 2, "rank", "config")
    bias = Diff(Held("bias", torch.tensor([1.0, 2.0]), "F32"), scaling)
    adapter = replace(plain(), updates={**plain().updates, "a.0.q.bias": Update(bias)})
    found = rescaled(adapter, Rescaling(strength=3)).adapter
    assert effects(found)["a.0.q.bias"].tolist() == [6, 12]


def dora() -> Adapter:
    adapter = plain()
    updates = {}
    for target, update in adapter.updates.items():
        low_rank = update.delta.low_rank
        assert low_rank is not None
        magnitude = Held("m", torch.ones(update.delta.shape[0]), "F32")
        updates[target] = replace(update, delta=DoRA(low_rank, magnitude, "row"))
    return replace(adapter, updates=updates)


@pytest.mark.parametrize("change", [{"strength": 0.5}, {"alpha": 1}, {"where": [("*", 2.0)]}])
def test_dora_has_no_other_strength(change: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"a\.0\.q\.weight: DoRA depends on the weight"):
        rescaled(dora(), Rescaling(**change))


@pytest.mark.parametrize("change", [{"fold": True}, {"rule": "rslora"}, {"balance": True}])
def test_dora_can_be_stored_in_another_way(change: Any) -> None:
    found = rescaled(dora(), Rescaling(**change)).adapter
    assert_effects(found, dora(), bits=1) if change.get("fold") else None
    assert all(isinstance(update.delta, DoRA) for update in found.updates.values())


def whole() -> Adapter:
    source = Held("head", torch.ones(2, 2), "F32")
    return replace(plain(), replaced={"head.weight": Replacement(source, is_trained=True)})


def test_whole_tensors_have_no_strength() -> None:
    with pytest.raises(
        UnsupportedError, match=r"head\.weight takes? the place.*keep_replaced=True"
    ):
        rescaled(whole(), Rescaling(strength=0.5))
    found = rescaled(whole(), Rescaling(strength=0.5, keep_replaced=True))
    assert list(found.adapter.replaced) == ["head.weight"]
    assert "head.weight" in found.notes[0]


def test_whole_tensors_do_not_matter_where_the_strength_stays() -> None:
    assert rescaled(whole(), Rescaling(fold=True)).notes == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"strength": math.nan},
        {"alpha": math.inf},
        {"where": [("*", math.inf)]},
        {"fold": True, "rule": "rslora"},
        {"fold": True, "alpha": 3},
    ],
)
def test_nonsense_is_refused(fields: Any) -> None:
    with pytest.raises(LoratoolsError):
        Rescaling(**fields)


def test_fold_states_an_alpha_that_was_missing() -> None:
    """Readers differ on a missing one; after folding there is nothing to guess."""
    folder = Path(__file__).parents[2] / "fixtures" / "kohya" / "sd15-locon"
    adapter = open_adapter(folder / "sd15-locon.safetensors")
    found = rescaled(adapter, Rescaling(fold=True)).adapter
    alphas = [key for key in encode(found).tensors if key.endswith(".alpha")]
    assert len(alphas) == len(adapter.updates)


def test_adapter_that_cannot_be_merged_exactly_is_refused() -> None:
    """The update of a PiSSA is not its product: that of its beginning is taken out of the base."""
    with pytest.raises(UnsupportedError, match="started from a changed base"):
        rescaled(plain(init_lora_weights="pissa"), Rescaling(strength=0.5))


def test_balance_keeps_what_folding_alone_would_round_to_zero() -> None:
    """Both factors are rounded once, after both."""
    adapter = plain(lora_alpha=0.0625)
    updates = {}
    for target, update in adapter.updates.items():
        low_rank = update.delta.low_rank
        assert low_rank is not None
        up = Held("up", (low_rank.up.read() * 2**-20).half(), "F16")
        down = Held("down", low_rank.down.read().half(), "F16")
        updates[target] = replace(update, delta=replace(low_rank, up=up, down=down))
    weak = replace(adapter, updates=updates)
    with pytest.raises(UnsupportedError, match=r"up is zero in F16; Rescaling\(balance=True\)"):
        rescaled(weak, Rescaling(fold=True, strength=2**-8))
    rescaled(weak, Rescaling(fold=True, strength=0))
    wanted = effects(weak)
    found = effects(rescaled(weak, Rescaling(fold=True, balance=True)).adapter)
    for target, effect in wanted.items():
        assert torch.dist(found[target], effect) <= 2**-10 * torch.linalg.norm(effect)
