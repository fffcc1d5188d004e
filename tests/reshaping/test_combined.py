"""Combining adapters: exact sums, certificates, what only some of them have, and refusals."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from loratools import LoratoolsError, methods, registry
from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.errors import (
    MatchError,
    NonFiniteError,
    OptionError,
    ShapeMismatchError,
    UnsupportedError,
)
from loratools.io.source import Held
from loratools.lowrank.ranks import RankRule
from loratools.methods import MethodOptions
from loratools.parts import Note, ReplacedRows, Update
from loratools.reshaping import results
from loratools.reshaping.combined import Combination, Combined
from loratools.reshaping.combined import combined as combine
from loratools.running.parallel import threads
from tests.methods.tasks import Tolerance
from tests.reshaping.adapters import adapter, bias, dense, lora, whole

METHODS = registry.names(methods)
DENSE = [name for name in METHODS if not registry.load(methods, name).LOW_RANK]
#: Sums of a few products of about 1 in float64.
NEAR: Tolerance = {"rtol": 0, "atol": 2.0**-42}
Q, K = "layers.0.q.weight", "layers.1.k.weight"


def combined(
    *adapters: Adapter,
    weights: Any = None,
    rule: RankRule | None = None,
    options: Any = None,
    **how: Any,
) -> Combined:
    combination = Combination(options=MethodOptions(**(options or {})), **how)
    return combine(adapters, weights or [1.0] * len(adapters), rule, combination)


def delta_of(found: Combined, target: str = Q) -> Delta:
    return found.adapter.updates[target].delta


def effect(found: Combined, target: str = Q) -> Tensor:
    return dense(delta_of(found, target))


def rank_of(found: Combined, target: str = Q) -> int:
    low_rank = delta_of(found, target).low_rank
    assert low_rank is not None
    return low_rank.rank


def pair(**how: Any) -> tuple[Adapter, Adapter]:
    return adapter({Q: lora(0, **how)}), adapter({Q: lora(1, **how)})


def uniform(name: str, *deltas: Delta) -> list[Adapter]:
    """One adapter for each; slerp takes no more than two."""
    return [adapter({Q: delta}) for delta in (deltas[:2] if name == "slerp" else deltas)]


# Sums


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_factors_of_a_sum_are_the_stored_ones_side_by_side(dtype: str) -> None:
    """With coefficients 0.5·8/4 = 1 and -1·2/4 = -1/2: the larger is the scaling, exactly."""
    one, other = lora(0, dtype=dtype), lora(1, alpha=2.0, dtype=dtype)
    found = combined(adapter({Q: one}), adapter({Q: other}), weights=(0.5, -1.0))
    sum_of_both = delta_of(found).low_rank
    assert sum_of_both is not None
    assert sum_of_both.scaling.value == 1
    assert torch.equal(sum_of_both.up.read(), torch.cat([one.up.read(), -other.up.read() / 2], 1))
    assert torch.equal(sum_of_both.down.read(), torch.cat([one.down.read(), other.down.read()]))
    assert {source.dtype for source in delta_of(found).sources} == {dtype}
    assert found.truncations == {}


def test_ranks_add_up_whatever_rank_alpha_and_rule() -> None:
    parts = [
        lora(0, rank=2, alpha=3.0, dtype="BF16"),
        lora(1, rank=5, alpha=7.0, rule="sqrt_rank", dtype="F64"),
        lora(2, rank=1, alpha=-1.0, rule="direct", dtype="F16"),
    ]
    weights = (0.3, -1.7, 2.0)
    found = combined(*(adapter({Q: part}) for part in parts), weights=weights)
    expected = sum(w * dense(part) for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(effect(found), expected, **NEAR)
    assert rank_of(found) == 8
    assert found.ranks == {Q: 8}
    assert {source.dtype for source in delta_of(found).sources} == {"F64"}


def test_target_of_one_adapter_only_is_that_one_times_its_weight() -> None:
    one, other = adapter({Q: lora(0)}), adapter({K: lora(1)})
    found = combined(one, other, weights=(2.0, -3.0))
    assert list(found.adapter.updates) == [Q, K]
    torch.testing.assert_close(effect(found, Q), 2 * dense(one.updates[Q].delta), **NEAR)
    torch.testing.assert_close(effect(found, K), -3 * dense(other.updates[K].delta), **NEAR)


def test_convolutions_keep_their_shape() -> None:
    one, other = pair(shape=(4, 3, 2, 2))
    found = combined(one, other)
    assert delta_of(found).shape == (4, 3, 2, 2)
    expected = dense(one.updates[Q].delta) + dense(other.updates[Q].delta)
    torch.testing.assert_close(effect(found), expected, **NEAR)


def test_globs_scale_the_result_where_they_match() -> None:
    one, other = adapter({Q: lora(0), K: lora(1)}), adapter({Q: lora(2), K: lora(3)})
    plain = combined(one, other)
    found = combined(one, other, where=[("layers.*", 0.5), ("*.k", -2.0)])
    assert torch.equal(effect(found, Q), 0.5 * effect(plain, Q))
    assert torch.equal(effect(found, K), -2 * effect(plain, K))
    with pytest.raises(MatchError, match=r"'nothing'\] matches no target"):
        combined(one, other, where=[("nothing", 1.0)])


def test_globs_scale_a_mean_too() -> None:
    options = {"normalize": True}
    plain = combined(*pair(), weights=(1.0, 3.0), options=options)
    found = combined(*pair(), weights=(1.0, 3.0), options=options, where=[("*", 0.5)])
    assert torch.equal(effect(found), 0.5 * effect(plain))


@pytest.mark.parametrize("name", METHODS)
def test_globs_scale_the_result_of_every_method(name: str) -> None:
    rule = RankRule(rank=6)
    plain = combined(*pair(), rule=rule, method=name)
    found = combined(*pair(), rule=rule, method=name, where=[("*", -4.0)])
    torch.testing.assert_close(effect(found), -4 * effect(plain), rtol=1e-5, atol=1e-4)


# Vectors


def test_biases_are_combined_by_the_method() -> None:
    """Sums of [4 1 0] and 2·[-1 2 3] are 2, 5 and 6. TIES' means: 4, 2.5 and 6."""
    one, other = adapter({"b": bias(4, 1, 0)}), adapter({"b": bias(-1, 2, 3, alpha=2.0)})
    assert effect(combined(one, other), "b").tolist() == [2, 5, 6]
    rule = RankRule(rank=1)
    ties = combined(one, other, method="ties", options={"density": 1.0}, rule=rule)
    assert effect(ties, "b").tolist() == [4, 2.5, 6]
    knots = combined(one, one, method="knots")
    torch.testing.assert_close(effect(knots, "b"), torch.tensor([4.0, 1, 0]).double())


def test_bias_of_one_adapter_only() -> None:
    one, other = adapter({Q: lora(0), "b": bias(4, 1)}), adapter({Q: lora(1)})
    found = combined(one, other, weights=(-1.0, 1.0))
    assert effect(found, "b").tolist() == [-4, -1]
    assert isinstance(found.similarity.to_json(), list)


# Ranks


def whole_of(part: results.Part, made: "methods.Combined") -> Tensor:
    """What a method made of a target, as a matrix."""
    if isinstance(made, tuple):
        terms = [c * dense(d) for c, d in zip(made, part.loras, strict=True)]
        return torch.stack(terms).sum(0)
    return made if isinstance(made, Tensor) else made.dense()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rule", [RankRule(rank=3), RankRule(energy=0.8), RankRule(error=0.3)])
def test_certificate_is_the_error_in_float64(
    name: str, rule: RankRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the result, against what the method made; both in float64."""
    made: dict[str, tuple[results.Part, methods.Combined]] = {}
    original = results.Job.result

    def kept(self: results.Job, target: str, part: results.Part) -> "methods.Combined":
        made[target] = part, original(self, target, part)
        return made[target][1]

    monkeypatch.setattr(results.Job, "result", kept)
    found = combined(*pair(shape=(60, 50), dtype="F64"), rule=rule, method=name)
    matrix = whole_of(*made[Q])
    certificate = found.truncations[Q]
    assert certificate.rank == rank_of(found)
    assert certificate.total == pytest.approx(matrix.double().square().sum().item(), rel=1e-12)
    error = (matrix.double() - effect(found)).norm() / matrix.double().norm()
    assert certificate.error == pytest.approx(error.item(), rel=1e-5)
    tail = torch.linalg.svdvals(matrix.double())[certificate.rank :].norm() / matrix.norm()
    assert certificate.error == pytest.approx(tail.item(), rel=1e-4)
    if rule.energy is not None:
        assert certificate.energy >= rule.energy
    if rule.error is not None:
        assert certificate.error <= rule.error


@pytest.mark.parametrize("name", DENSE)
def test_matrices_need_a_rule(name: str) -> None:
    with pytest.raises(OptionError, match=f"{name} makes updates of full rank; say how many"):
        combined(*pair(), method=name)


def test_budget_is_spent_over_all_targets() -> None:
    """Both matrices together get it; asked alone, each would be given all of it."""
    budget = RankRule(parameters=40 * (300 + 320))
    adapters = [
        adapter({Q: lora(n, (300, 320)), K: lora(n + 9, (300, 320), alpha=0.01)}) for n in range(2)
    ]
    found = combined(*adapters, rule=budget, method="ties")
    ranks = {target: rank_of(found, target) for target in (Q, K)}
    assert ranks == {Q: 39, K: 1}  # no rank below 1 is stored, and Q has nearly all the energy
    assert found.gap == 0


def test_targets_with_too_few_known_values_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the fair share of the budget is 2·40/4 = 20 ranks; one target is worth all of it."""
    calls: list[str] = []
    original = results.Job.result

    def counted(self: results.Job, target: str, part: results.Part) -> Any:
        calls.append(target)
        return original(self, target, part)

    monkeypatch.setattr(results.Job, "result", counted)
    names = [f"layers.{n}.weight" for n in range(4)]
    alphas = dict(zip(names, (8.0, 0.01, 0.01, 0.01), strict=True))
    shape = (300, 320)
    adapters = [
        adapter({t: lora(n + i, shape, alpha=a) for i, (t, a) in enumerate(alphas.items())})
        for n in (0, 10)
    ]
    found = combined(*adapters, rule=RankRule(parameters=40 * sum(shape)), method="ties")
    assert [rank_of(found, t) for t in names] == [37, 1, 1, 1]
    assert calls == [*names, names[0]]
    error = found.truncations[names[0]].error
    whole_rank = combined(*adapters, rule=RankRule(rank=37), method="ties")
    assert error == pytest.approx(whole_rank.truncations[names[0]].error, rel=1e-4)


def test_one_rank_for_all_is_filled_where_less_was_known() -> None:
    """One target has a flat spectrum, the other one of rank 1: both get the larger rank."""
    flat, thin = lora(0, (300, 320), rank=40), lora(1, (300, 320), rank=1)
    options = {"density": 1.0}
    rule = RankRule(energy=0.9, uniform=True)
    found = combined(adapter({Q: flat, K: thin}), rule=rule, method="ties", options=options)
    assert rank_of(found, Q) == rank_of(found, K) > 10
    torch.testing.assert_close(effect(found, K), dense(thin), rtol=1e-4, atol=1e-4)


def test_rule_that_keeps_all_keeps_all() -> None:
    one = lora(0, (30, 20))
    found = combined(adapter({Q: one}), rule=RankRule(), method="ties", options={"density": 1.0})
    torch.testing.assert_close(effect(found), dense(one), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rule", [RankRule(rank=2), RankRule(energy=0.9)])
def test_nothing_becomes_nothing_at_a_rank_that_can_be_stored(name: str, rule: RankRule) -> None:
    nothing = replace(lora(0), up=Held("up", torch.zeros(20, 4), "F32"))
    found = combined(*uniform(name, nothing, nothing, nothing), rule=rule, method=name)
    assert not effect(found).any()
    assert rank_of(found) == (rule.rank or 1)
    assert found.truncations[Q].error == 0


@pytest.mark.parametrize("name", ["knots", "slerp", "linear"])
def test_nothing_without_a_rule(name: str) -> None:
    nothing = replace(lora(0), up=Held("up", torch.zeros(20, 4), "F32"))
    found = combined(*uniform(name, nothing, nothing), method=name)
    assert not effect(found).any()
    assert rank_of(found) >= 1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_result_is_stored_in_the_dtype_of_the_adapters(name: str, dtype: str) -> None:
    rules = [RankRule(rank=4)] if name in DENSE else [None, RankRule(rank=4), RankRule(rank=20)]
    for rule in rules:
        found = combined(*pair(dtype=dtype), rule=rule, method=name)
        sources = delta_of(found).sources
        assert {source.dtype for source in sources} == {dtype}
        assert {str(source.read().dtype) for source in sources} == {
            "torch.bfloat16" if dtype == "BF16" else "torch.float32"
        }


@pytest.mark.parametrize("name", METHODS)
def test_threads_and_other_targets_do_not_change_a_bit(name: str) -> None:
    rule = RankRule(rank=3)
    both = [adapter({K: lora(7), Q: lora(n)}) for n in range(2)]
    alone = combined(*pair(), rule=rule, method=name)
    with threads(3) as each:
        found = combine(both, (1.0, 1.0), rule, Combination(method=name), each)
    for one, other in zip(delta_of(alone).sources, delta_of(found).sources, strict=True):
        assert torch.equal(one.read(), other.read())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(20, 30), (600, 500)])
def test_a_device_finds_what_the_processor_finds(
    name: str, shape: tuple[int, int], device: torch.device
) -> None:
    """But for entries that are as large as the smallest kept one, to rounding."""
    rule = RankRule(rank=3)
    one, other = (
        effect(combined(*pair(shape=shape), rule=rule, method=name, device=where))
        for where in (None, device)
    )
    assert (other - one).norm() <= 1e-3 * one.norm()


def test_device_is_used_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = RankRule(rank=3)
    found = combined(*pair(), rule=rule, method="ties", device=torch.device("cpu"))
    assert torch.equal(effect(found), effect(combined(*pair(), rule=rule, method="ties")))
    # A device without numbers, which is refused otherwise, fails where it is used.
    monkeypatch.setattr("loratools.lowrank.devices.usable_device", torch.device)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        combined(*pair(), rule=rule, method="ties", device=torch.device("meta"))


def test_seed_and_target_decide_what_is_random() -> None:
    rule = RankRule(rank=20)
    same = adapter({Q: lora(0), K: lora(0)})
    found = combined(same, rule=rule, method="dare_linear", seed=1)
    again = combined(same, rule=rule, method="dare_linear", seed=1)
    other = combined(same, rule=rule, method="dare_linear", seed=2)
    assert torch.equal(effect(found), effect(again))
    assert not torch.equal(effect(found), effect(other))
    assert not torch.equal(effect(found, Q), effect(found, K))


# Whole tensors


def test_equal_whole_tensors_are_kept() -> None:
    one = adapter({Q: lora(0)}, replaced={"head": whole([1.0, 2.0])})
    found = combined(one, replace(one, where="two"))
    assert found.adapter.replaced["head"].source.read().tolist() == [1, 2]
    assert found.notes == ()


@pytest.mark.parametrize(("policy", "expected"), [("first", [1, 2]), ("average", [2, 1])])
def test_different_whole_tensors_are_refused_or_decided(policy: Any, expected: Any) -> None:
    one = adapter({Q: lora(0)}, replaced={"head": whole([1.0, 2.0])})
    other = adapter({Q: lora(0)}, where="two", replaced={"head": whole([3.0, 0.0])})
    with pytest.raises(UnsupportedError, match=r"head: takes the place of .* differs between"):
        combined(one, other)
    found = combined(one, other, replaced=policy)
    assert found.adapter.replaced["head"].source.read().tolist() == expected
    assert found.notes == (f"head: the {policy} is taken",)


def test_trained_rows_have_to_agree() -> None:
    def with_rows(values: float, *indices: int) -> Adapter:
        rows = Held("rows", torch.full((len(indices), 3), values), "F32")
        return adapter({Q: lora(0)}, rows={"embed": ReplacedRows(indices, rows)})

    found = combined(with_rows(1.0, 5, 7), with_rows(1.0, 5, 7))
    assert found.adapter.rows["embed"].indices == (5, 7)
    with pytest.raises(UnsupportedError, match="embed: the adapters have trained different rows"):
        combined(with_rows(1.0, 5, 7), with_rows(1.0, 7, 5))
    with pytest.raises(UnsupportedError, match="embed: takes the place"):
        combined(with_rows(1.0, 5, 7), with_rows(2.0, 5, 7))
    averaged = combined(with_rows(1.0, 5, 7), with_rows(2.0, 5, 7), replaced="average")
    assert averaged.adapter.rows["embed"].rows.read().unique().tolist() == [1.5]


# Refusals


def test_shapes_that_differ_are_refused_with_both() -> None:
    one, other = adapter({Q: lora(0)}), adapter({Q: lora(0, (20, 31))}, where="two")
    with pytest.raises(ShapeMismatchError, match=r"\[20, 31\] in two and \[20, 30\] in one"):
        combined(one, other)


def test_formats_that_differ_are_refused() -> None:
    says = r"^two: is in the format kohya, and one in the format peft; `convert\(to=\)` writes"
    with pytest.raises(UnsupportedError, match=says):
        combined(adapter({Q: lora(0)}), adapter({Q: lora(0)}, where="two", format="kohya"))


SDXL = "lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q.weight"
SD1 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.weight"
FLUX = "lora_unet_double_blocks_0_img_attn_qkv.weight"
LLAMA = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("target", "other", "says"),
    [
        (SDXL, FLUX, "two: .* it is for .*FLUX.1.*, and one for SDXL; .* of one base"),
        (SDXL, SD1, "two: .* it is for Stable Diffusion 1 or 2, and one for SDXL; .* of one base"),
        (LLAMA, FLUX, "two: .* it is for .*FLUX.1.*, and one for a language model"),
        (FLUX, LLAMA, "two: .* it is for a language model, and one for .*FLUX.1"),
    ],
)
def test_adapters_of_which_no_model_has_all_modules_are_refused(
    target: str, other: str, says: str
) -> None:
    with pytest.raises(UnsupportedError, match=says):
        combined(adapter({target: lora(0)}), adapter({other: lora(1)}, where="two"))


def test_adapters_for_the_parts_of_one_pipeline_may_be_combined() -> None:
    encoder = adapter({"lora_te1_text_model_encoder_layers_0_mlp_fc1.weight": lora(1)})
    assert len(combined(adapter({SDXL: lora(0)}), encoder).adapter.updates) == 2


def test_changes_that_depend_on_the_weight_are_refused() -> None:
    dora = DoRA(lora(0), Held("magnitude", torch.ones(20), "F32"), "row")
    kasa = KaSA(lora(0), Held("diagonal", torch.ones(4), "F32"))
    for delta in (dora, kasa):
        with pytest.raises(UnsupportedError, match=f"{delta.kind} depends on the weight"):
            combined(adapter({Q: delta}), adapter({Q: lora(0)}))


def test_matrix_that_is_stored_whole_is_refused() -> None:
    diff = replace(bias(1.0), values=Held("diff", torch.ones(20, 30), "F32"))
    with pytest.raises(UnsupportedError, match=r"diff has no factors .* `merge\(\)` adds"):
        combined(adapter({Q: diff}))


def test_different_ways_to_change_one_target_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="in another way in two than in one"):
        combined(adapter({"b": lora(0, (3, 3))}), adapter({"b": bias(1, 2, 3)}, where="two"))
    one = adapter({Q: lora(0)})
    other = replace(one, where="two", updates={Q: Update(lora(0), is_embedding=True)})
    with pytest.raises(UnsupportedError, match="in another way in two than in one"):
        combined(one, other)


def test_adapters_that_cannot_be_merged_exactly_are_refused() -> None:
    note = Note("refusal", "starts from another base")
    with pytest.raises(UnsupportedError, match="one: starts from another base"):
        combined(replace(adapter({Q: lora(0)}), notes=(note,)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [((1.0,), "1 weight for 2 adapters"), ((1.0, math.nan), "weight is a finite number")],
)
def test_weights_are_checked(weights: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        combined(*pair(), weights=weights)


def test_no_adapters_are_refused() -> None:
    with pytest.raises(LoratoolsError, match="no adapters to combine"):
        combine((), (), None, Combination())


@pytest.mark.parametrize("name", METHODS)
def test_nan_is_refused_by_name(name: str) -> None:
    broken = replace(lora(0), up=Held("up", torch.full((20, 4), math.nan), "F32"))
    with pytest.raises(NonFiniteError, match=r"(layers\.0\.q\.weight|up): holds a NaN"):
        combined(*uniform(name, broken, lora(1)), rule=RankRule(rank=2), method=name)


def test_option_that_the_method_does_not_take_is_refused() -> None:
    with pytest.raises(LoratoolsError, match="linear takes no density; it takes normalize, lam"):
        combined(*pair(), options={"density": 0.5})


# Similarity


def test_similarity_is_that_of_the_dense_updates() -> None:
    """Of 16 rows and fewer all signs are compared; the result has the last number."""
    one, other = pair(shape=(12, 30))
    found = combined(one, other, weights=(1.0, -0.5))
    angles = found.similarity.total
    assert angles is not None
    matrices = [dense(one.updates[Q].delta), dense(other.updates[Q].delta), effect(found)]
    for i, a in enumerate(matrices):
        for j, b in enumerate(matrices):
            cosine = ((a * b).sum() / (a.norm() * b.norm())).item()
            assert angles.cosine(i, j) == pytest.approx(cosine, abs=1e-12)
            conflict = (a * b < 0).double().mean().item()
            assert angles.conflict(i, j) == pytest.approx(conflict, abs=1e-15)


# Names


def renamed(one: Adapter, old: str, new: str) -> Adapter:
    updates = {name.replace(old, new): update for name, update in one.updates.items()}
    return replace(one, updates=updates, where="renamed")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("language_model.model.layers.0.q.weight", "model.language_model.layers.0.q.weight"),
        ("model.layers.0.q.weight", "layers.0.q.weight"),
        ("lora_te1_text_model_encoder_layers_0_q.weight", "lora_te1_encoder_layers_0_q.weight"),
    ],
)
def test_one_module_under_two_names_is_one_target_of_the_result(one: str, other: str) -> None:
    first, second = adapter({one: lora(0)}), adapter({other: lora(1)}, where="two")
    found = combined(first, second)
    assert list(found.adapter.updates) == [one]
    expected = combined(first, adapter({one: lora(1)})).adapter
    torch.testing.assert_close(
        dense(delta_of(found, one)), dense(expected.updates[one].delta), **NEAR
    )
    assert found.notes[0].startswith("two: its names are read as: ")


def test_both_names_of_a_block_of_a_unet_are_one_target_of_the_result() -> None:
    sgm = "lora_unet_input_blocks_4_1_q.weight"
    diffusers = "lora_unet_down_blocks_1_attentions_0_q.weight"
    for names in ((sgm, diffusers), (diffusers, sgm)):
        found = combined(*(adapter({name: lora(n)}) for n, name in enumerate(names)))
        assert list(found.adapter.updates) == [diffusers]
        assert found.notes[0].startswith("blocks of the U-Net have diffusers' names")
    assert list(combined(adapter({sgm: lora(0)}), adapter({sgm: lora(1)})).adapter.updates) == [sgm]


def test_whole_tensors_and_rows_are_renamed_with_the_updates() -> None:
    one = adapter(
        {"model.layers.0.q.weight": lora(0)}, replaced={"model.norm.weight": whole([1.0])}
    )
    rows = {"embed.weight": ReplacedRows((1,), Held("rows", torch.ones(1, 3), "F32"))}
    other = adapter(
        {"layers.0.q.weight": lora(0)}, replaced={"norm.weight": whole([1.0])}, rows=rows
    )
    found = combined(one, other, replaced="first").adapter
    assert [*found.updates, *found.replaced, *found.rows] == [
        "model.layers.0.q.weight",
        "model.norm.weight",
        "model.embed.weight",
    ]


def test_names_of_one_module_with_another_shape_are_refused() -> None:
    one = adapter({"model.layers.0.q.weight": lora(0)})
    other = adapter({"layers.0.q.weight": lora(0, (21, 30))}, where="two")
    with pytest.raises(ShapeMismatchError, match="are they of one base"):
        combined(one, other)


def test_adapters_without_a_common_target_are_combined_and_it_is_said() -> None:
    found = combined(
        adapter({"lora_unet_mid_block_q.weight": lora(0)}),
        adapter({"lora_te_text_model_q.weight": lora(1)}, where="two"),
    )
    assert len(found.adapter.updates) == 2
    assert found.notes == (
        "one: has no target in common with the other adapters",
        "two: has no target in common with the other adapters",
    )


@pytest.mark.parametrize("rule", [None, RankRule(rank=2)])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_updates_that_cancel_leave_nothing_and_it_is_said(rule: Any, dtype: str) -> None:
    """What rounding leaves of them has no angle; its square may even be below zero."""
    for seed in range(20):
        one = adapter({Q: lora(seed, rank=3, alpha=7.0, dtype=dtype)})
        found = combined(one, one, weights=(0.3, -0.3), rule=rule)
        angles = found.similarity.total
        assert angles is not None
        assert [angles.cosine(i, 2) for i in range(3)] == [None, None, None]
        assert "nothing is left of the updates: the result changes nothing" in found.notes
    _, other = pair()
    assert not combined(one, other, weights=(1.0, 1e-5)).notes


def test_updates_that_cancel_up_to_rounding_have_no_angle() -> None:
    """The same update in other factors; what is left has a square of either sign."""
    for seed in range(20):
        one = lora(seed, rank=3)
        up = Held("up", one.up.read().double() * 3, "F64")
        down = Held("down", one.down.read().double() / 3, "F64")
        two = replace(one, up=up, down=down)
        found = combined(adapter({Q: one}), adapter({Q: two}), weights=(1.0, -1.0))
        angles = found.similarity.total
        assert angles is not None
        assert [angles.cosine(i, 2) for i in range(3)] == [None, None, None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e30, 1e160, 1e200])
def test_an_update_that_is_too_large_to_compute_with_is_refused(method: str, size: float) -> None:
    """Squares of 1e30 are beyond float32, in which some methods compute.

    Of 1e200 both factors are, whose product is no number.
    """
    up = Held("up", torch.full((20, 4), size, dtype=torch.float64), "F64")
    down = Held("down", torch.full((4, 30), size, dtype=torch.float64), "F64")
    large = replace(lora(0), up=up)
    large = replace(large, down=down) if size == 1e200 else large
    updates = uniform(method, large, lora(1))
    if size == 1e30 and method in {"linear", "slerp", "knots"}:
        combined(*updates, rule=RankRule(rank=2), method=method)
        return
    with pytest.raises(NonFiniteError, match="too large"):
        combined(*updates, rule=RankRule(rank=2), method=method)
