"""Every kind goes through every verb: what it does to a weight is kept, or the verb refuses it.

The kinds are those of `loratools/deltas` and some that only these tests have, so that no verb can
know them: a kind that is new is never skipped in silence, nor reduced to the LoRA in it.
"""

import ast
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools import deltas, formats, registry
from loratools.adapter import Adapter
from loratools.deltas import Delta, keys_of
from loratools.deltas.lora import LoRA
from loratools.describing.description import find_nonfinite
from loratools.describing.spectrum import measure_spectra
from loratools.errors import UnsupportedError
from loratools.files.opening import open_base
from loratools.idle import idle_updates
from loratools.io.checkpoint import Checkpoint
from loratools.io.rounding import Rounding
from loratools.lowrank.ranks import RankRule
from loratools.merging.announced import Planned
from loratools.merging.edit import edited_blocks
from loratools.merging.plan import MergeOptions
from loratools.merging.planner import plan_merge
from loratools.methods import MethodOptions
from loratools.reshaping.additive import additive
from loratools.reshaping.combined import Combination, combined
from loratools.reshaping.rescaled import Rescaling, rescaled
from loratools.reshaping.resized import resized
from tests.deltas.computing import held
from tests.deltas.examples import EXAMPLES, applied, change, weight_for
from tests.deltas.toys import ALL, NEAR, TOYS, assert_does, each_kind, parts_beside
from tests.merged import write_base
from tests.reshaping.adapters import adapter

#: As `NEAR`, of factors or numbers that were rounded to float32.
ROUNDED = 2.0**-21
TARGET = "a.weight"
RANK = RankRule(rank=2)


def of(delta: Delta) -> Adapter:
    return adapter({TARGET: delta}, where="toy")


def found(adapter: Adapter) -> Delta:
    return adapter.updates[TARGET].delta


def assert_refused(error: pytest.ExceptionInfo[UnsupportedError], delta: Delta) -> None:
    assert str(error.value).startswith(f"toy: {TARGET}: ")
    assert delta.kind in str(error.value)


# Verbs


@each_kind
@pytest.mark.parametrize(
    ("how", "strength"),
    [
        ({"strength": 0.5}, 0.5),
        ({"strength": 0}, 0.0),
        ({"where": [("*", -2.0)]}, -2.0),
        ({"alpha": 4.0}, 4.0),
        ({"alpha": 0.0}, 0.0),
    ],
    ids=str,
)
def test_rescale_multiplies_every_kind_or_refuses_it(
    delta: Delta, how: Any, strength: float
) -> None:
    if delta.additive is None or ("alpha" in how and delta.scaling is None):
        with pytest.raises(UnsupportedError) as error:
            rescaled(of(delta), Rescaling(**how))
        assert_refused(error, delta)
        return
    assert_does(found(rescaled(of(delta), Rescaling(**how)).adapter), delta, strength, near=0)


STORED = [
    {"fold": True},
    {"balance": True},
    {"fold": True, "balance": True},
    {"rule": "rslora"},
    {"rule": "alpha-over-rank", "balance": True},
]


@each_kind
@pytest.mark.parametrize("how", STORED, ids=str)
def test_rescale_stores_the_same_change_in_another_way_or_refuses(delta: Delta, how: Any) -> None:
    if how.get("balance") and delta.low_rank is None and len(delta.sources) > 1:
        with pytest.raises(UnsupportedError) as error:
            rescaled(of(delta), Rescaling(**how))
        assert_refused(error, delta)
        return
    after = found(rescaled(of(delta), Rescaling(**how)).adapter)
    assert type(after) is type(delta)
    assert_does(after, delta)
    if how.get("fold") and after.scaling is not None:
        assert after.scaling.value == 1
    if "rule" in how and after.scaling is not None:
        assert after.scaling.rule == {"rslora": "sqrt_rank"}.get(how["rule"], "rank")
    if how.get("balance") and after.low_rank is not None:
        up, down = (source.read().norm() for source in (after.low_rank.up, after.low_rank.down))
        assert 1 / 2 <= up / down <= 2


def takes(delta: Delta, rank: int) -> bool:
    """Whether a kind that holds a LoRA may have it at another rank."""
    if delta.low_rank is None:
        return True
    up, down = held([[0.0] * rank] * 4, "up"), held([[0.0] * 4] * rank, "down")
    try:
        delta.with_low_rank(LoRA(up, down, delta.low_rank.scaling, delta.shape))
    except UnsupportedError as error:
        return delta.kind not in str(error)
    return True


def test_rank_means_more_than_precision_to_kasa_alone() -> None:
    assert [name for name, delta in ALL.items() if not takes(delta, 1)] == ["kasa-0"]


@each_kind
@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_resize_keeps_the_change_within_its_certificate_or_refuses(delta: Delta, rank: int) -> None:
    lora = delta.factored()
    if len(delta.shape) == 1:
        assert found(resized(of(delta), RankRule(rank=rank)).adapter) is delta
        return
    if lora is None or not takes(delta, rank):
        with pytest.raises(UnsupportedError) as error:
            resized(of(delta), RankRule(rank=rank))
        assert_refused(error, delta)
        return
    smaller = resized(of(delta), RankRule(rank=rank))
    after = found(smaller.adapter)
    low_rank = after.factored()
    assert low_rank is not None
    assert low_rank.rank == rank
    lost = smaller.truncations[TARGET].lost ** 0.5
    assert (change(low_rank) - change(lora)).norm() <= lost + ROUNDED * change(lora).norm()
    assert parts_beside(after) == parts_beside(delta) or delta.low_rank is None
    if rank >= lora.rank:
        assert_does(after, delta)


@each_kind
def test_resize_says_what_its_figures_are_of(delta: Delta) -> None:
    if delta.low_rank is not None:
        notes = resized(of(delta), RankRule(rank=delta.low_rank.rank)).notes
        assert (delta.additive is None) == bool(notes)
        assert all(note.startswith(f"{delta.kind}: ") for note in notes)


@each_kind
@pytest.mark.parametrize("rule", [None, RankRule(rank=2), RankRule(rank=8)], ids=str)
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_combine_adds_changes_within_its_certificate_or_refuses(
    delta: Delta, rule: RankRule | None, method: str
) -> None:
    if method == "ties":
        rule = rule or RankRule(rank=4)
    pair = [of(delta), replace(of(delta), where="other")]
    is_vector = len(delta.shape) == 1
    if delta.additive is None or not (is_vector or delta.additive.factored()):
        with pytest.raises(UnsupportedError, match=f"^toy: {TARGET}: "):
            combined(pair, [1.0, 0.5], rule, Combination(method))
        return
    options = MethodOptions() if method == "linear" else MethodOptions(density=1.0)
    together = combined(pair, [1.0, 0.5], rule, Combination(method, options))
    certificate = together.truncations.get(TARGET)
    lost = certificate.lost**0.5 if certificate else 0.0
    wanted = change(delta) * (1.5 if method == "linear" else 0.75)
    assert (change(found(together.adapter)) - wanted).norm() <= lost + ROUNDED * wanted.norm()


def test_factors_that_were_computed_have_the_dtype_of_what_is_stored() -> None:
    """Exact factors of a product of products need more digits than they are stored with."""
    pair = [of(TOYS["products"]), replace(of(TOYS["products"]), where="other")]
    made = [resized(pair[0], RankRule(rank=rank)).adapter for rank in (2, 4, 6)]
    made += [combined(pair, [1.0, 0.5], rule, Combination()).adapter for rule in (None, RANK)]
    assert {source.dtype for each in made for source in found(each).sources} == {"F32"}


def test_combine_compares_whatever_has_factors() -> None:
    pair = [of(TOYS["products"]), replace(of(TOYS["products"].scaled(-1.0)), where="other")]
    total = combined(pair, [1.0, 0.5], None, Combination()).similarity.total
    assert total is not None
    assert total.cosine(0, 1) == pytest.approx(-1.0)


@each_kind
def test_update_of_a_tied_end_is_one_whatever_its_kind(delta: Delta, tmp_path: Path) -> None:
    """Trained tokens are at both ends anyhow; PEFT's option asks for an update at each."""
    (tensor,) = plan_merge(base_of(tmp_path, delta), [of(delta)], [1.0], MergeOptions()).changed
    planned = Planned({TARGET: tensor}, None, 0, lambda _: True)
    assert planned.is_other(TARGET)


def base_of(folder: Path, delta: Delta) -> Checkpoint:
    weight = weight_for(delta).reshape(delta.shape).contiguous()
    return open_base(write_base(folder / "base", {TARGET: weight}))


@each_kind
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_merge_does_what_the_kind_says(delta: Delta, strength: float, tmp_path: Path) -> None:
    plan = plan_merge(base_of(tmp_path, delta), [of(delta)], [strength], MergeOptions())
    assert plan.accounting.total == len(plan.accounting.applied) == len(keys_of(delta))
    (tensor,) = plan.changed
    blocks = [block.clone() for _, block, _ in edited_blocks(tensor, 0, 4, Rounding())]
    assert torch.equal(torch.cat(blocks), applied(delta, weight_for(delta), strength))


@each_kind
def test_merge_takes_out_what_is_additive_and_nothing_else(delta: Delta, tmp_path: Path) -> None:
    base = base_of(tmp_path, delta)
    if delta.additive is None:
        with pytest.raises(UnsupportedError) as error:
            plan_merge(base, [of(delta)], [-1.0], MergeOptions())
        assert_refused(error, delta)
    else:
        assert plan_merge(base, [of(delta)], [-1.0], MergeOptions()).changed


@each_kind
def test_base_makes_every_kind_additive(delta: Delta, tmp_path: Path) -> None:
    made = additive(of(delta), base_of(tmp_path, delta), RankRule(rank=4))
    after = found(made.adapter)
    assert after.additive is not None
    wanted = change(delta)
    assert (change(after) - wanted).norm() <= ROUNDED * wanted.norm()
    if delta.additive is not None:
        assert after is delta


def broken(delta: Delta, number: int) -> Delta:
    """The change with a NaN in one of its tensors."""
    wanted = tuple(delta.sources[number].keys)

    def with_nans(value: Any) -> Any:
        if getattr(value, "keys", None) == wanted:
            return held(torch.full(value.shape, torch.nan).tolist(), wanted[0])
        if hasattr(value, "bind"):
            parts = {field.name: with_nans(getattr(value, field.name)) for field in fields(value)}
            return replace(value, **parts)
        return tuple(map(with_nans, value)) if type(value) is tuple else value

    broken: Delta = with_nans(delta)
    return broken


@each_kind
def test_inspect_finds_what_is_wrong_in_every_part(delta: Delta) -> None:
    assert find_nonfinite(of(delta)) == ()
    for number, source in enumerate(delta.sources):
        assert find_nonfinite(of(broken(delta, number))) == source.keys


@each_kind
def test_inspect_measures_what_has_factors(delta: Delta) -> None:
    rows = list(measure_spectra(of(delta)))
    lora = delta.factored()
    assert len(rows) == (lora is not None)
    assert idle_updates(of(delta), ()) == {}
    for row in rows:
        assert lora is not None
        assert row.spectrum is not None
        assert row.spectrum.frobenius == pytest.approx(change(lora).norm().item(), rel=NEAR)


#: The formats that say by themselves how an adapter is written.
WRITTEN = [
    dialect.name
    for dialect in formats.dialects()
    if formats.can_write(dialect) and not any(option.decides for option in dialect.options)
]


def alone(delta: Delta, format: str) -> tuple[str, Adapter]:
    """An adapter of this change alone, under a name that the format has for a weight."""
    target = {"kohya": "a_b.weight", "comfyui": "diffusion_model.a.weight"}.get(format, "a.weight")
    return target, adapter({target: delta}, format=format, where="toy")


@pytest.mark.parametrize("format", WRITTEN)
@each_kind
def test_format_stores_a_kind_whole_or_refuses_it(delta: Delta, format: str) -> None:
    target, written = alone(delta, format)
    try:
        bundle = formats.encode(written)
    except UnsupportedError as error:
        assert delta.kind in str(error)  # noqa: PT017
        return
    assert delta.kind in formats.dialect_named(format).writes
    read = formats.decode(bundle)
    assert list(read.updates) == [target]
    assert_does(read.updates[target].delta, delta, near=0)


def test_kind_on_a_bias_beside_a_lora_is_not_lost_in_peft() -> None:
    """PEFT's `lora_B.bias` is a change stored whole, and no other kind."""
    spots = replace(TOYS["spots"], at=((0, 0),), values=held([1.0]), shape=(4, 1))  # type: ignore[type-var]
    both = adapter({"a.weight": ALL["lora-0"], "a.bias": spots}, where="toy")
    with pytest.raises(UnsupportedError, match=r"toy: a\.bias: PEFT has no place for a spots"):
        formats.encode(both)


# The code


def kinds_of_code() -> set[str]:
    """The names of the classes of kinds."""
    modules = [registry.load(deltas, name) for name in registry.names(deltas)]
    return {
        name
        for module in modules
        for name, value in vars(module).items()
        if hasattr(value, "bind") and value.__module__ == module.__name__
    }


def asks(text: str) -> list[str]:
    """Where code names a kind other than to make one or in a type, or compares the name of one."""
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    types = [getattr(node, field, None) for node in nodes for field in ("annotation", "returns")]
    allowed = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    allowed |= {id(node) for root in types if root is not None for node in ast.walk(root)}
    words = {id(n) for node in nodes if isinstance(node, ast.Compare) for n in ast.walk(node)}
    classes, names = kinds_of_code(), {delta.kind for some in EXAMPLES.values() for delta in some}
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in nodes
        if (isinstance(node, ast.Name) and node.id in classes and id(node) not in allowed)
        or (isinstance(node, ast.Attribute) and node.attr in classes and id(node) not in allowed)
        or (isinstance(node, ast.Constant) and node.value in names and id(node) in words)
    ]


@pytest.mark.parametrize(
    ("text", "is_asked"),
    [
        ("isinstance(delta, LoRA)", True),
        ("isinstance(delta, (Diff, Rows))", True),
        ("type(delta) is dora.DoRA", True),
        ("match delta:\n    case KaSA(): pass", True),
        ("found = delta.kind == 'DoRA'", True),
        ("found = [k for k in kinds if k not in ('diff', 'rows')]", True),
        ("made = LoRA(up, down, scaling, shape)", False),
        ("def held(delta: LoRA | None) -> Rows: ...", False),
    ],
)
def test_questions_for_a_kind_are_found(text: str, is_asked: bool) -> None:
    assert bool(asks(text)) == is_asked


def test_no_code_but_the_codecs_asks_for_a_kind() -> None:
    """A kind is named where one is made, and in types. All else is asked of the change itself."""
    root = Path(loratools.__file__).parent
    exempt = {"deltas", "formats", "testing.py"}  # what kinds are, how they are stored, drawn
    places = {path.relative_to(root): path for path in sorted(root.rglob("*.py"))}
    asked = [
        f"{place}: {found}"
        for place, path in places.items()
        if place.parts[0] not in exempt
        for found in asks(path.read_text())
    ]
    assert asked == [], (
        "only deltas/ and formats/ may ask which kind a change is, so that a new kind is no edit "
        "elsewhere: ask for a member of loratools.deltas.Delta instead, such as `additive` or "
        f"`low_rank`, or give Delta a new member that every kind answers: {asked}"
    )
