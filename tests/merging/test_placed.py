"""Several changes share a weight, each in rows of its own, and cost and count as one each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

import loratools
from loratools import WriteOptions
from loratools.deltas import Delta
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA, Scaling
from loratools.deltas.placed import Run, placed
from loratools.errors import NonFiniteError
from loratools.io import blocks
from loratools.io.checkpoint import Checkpoint
from loratools.io.source import Held
from loratools.merging import edit, merge, products, steps
from loratools.merging.plan import Accounting, Change, MergePlan, PlannedTensor
from loratools.merging.report import MergeReport
from loratools.parts import Update
from loratools.testing import deltas, diffs, eighths, exact_scalings, loras, shapes, tuckers
from tests.deltas.computing import held
from tests.deltas.places import places, rows_of
from tests.merged import pair, write_adapter, write_base
from tests.merged import update as product
from tests.merging.computing import DTYPES, changed, changed_and_measured, computed_with
from tests.narrowing import present
from tests.reference import rounded, spacing

Shape = tuple[int, ...]
EXACT: dict[str, Any] = {"tensors": eighths, "scaling": exact_scalings}
NAMES = ("q.weight", "k.weight", "v.weight")
STRENGTHS = st.sampled_from((-1.0, 0.5, 1.0))


def additive(shape: Shape) -> st.SearchStrategy[Delta]:
    return loras(shape, **EXACT) | diffs(shape, **EXACT) | tuckers(shape, **EXACT)


@st.composite
def shared(
    draw: st.DrawFn, kind: Any, parts: int = 3
) -> tuple[Shape, list[tuple[Delta, Sequence[Run]]]]:
    """The shape of a weight, and changes to rows of it that do not overlap, with their runs."""
    _, *width = draw(shapes(most=5))
    found: list[tuple[Delta, Sequence[Run]]] = []
    first = 0
    for _ in range(draw(st.integers(1, parts))):
        rows = draw(st.integers(1, 4))
        runs, end = draw(places(rows))
        found.append((draw(kind((rows, *width))), [Run(b, first + at, n) for b, at, n in runs]))
        first += end
    return (first, *width), found


def in_place(shape: Shape, parts: Sequence[tuple[Delta, Sequence[Run]]]) -> list[Delta]:
    return [placed(delta, tuple(runs), shape) for delta, runs in parts]


def matrix(weight: Held) -> Tensor:
    return weight.tensor.double().reshape(weight.shape[0], -1)


def dense(delta: Delta, runs: Sequence[Run], shape: Shape) -> Tensor:
    """What an additive change adds to the rows of its runs, in float64."""
    whole = torch.zeros(shape[0], math.prod(shape[1:]), dtype=torch.float64)
    whole[rows_of(runs)] = present(delta.additive).dense_rows(0, delta.shape[0])
    return whole


# The result


@given(data=st.data(), part=shared(additive))
def test_sums_of_placed_changes_are_rounded_once(data: st.DataObject, part: Any) -> None:
    """Those of one adapter, and of another one that changes all rows, each with its strength."""
    shape, parts = part
    base = data.draw(eighths("weight", shape))
    dtype = data.draw(st.none() | st.sampled_from(sorted(DTYPES)))
    whole, first, second = data.draw(additive(shape)), data.draw(STRENGTHS), data.draw(STRENGTHS)
    changes = [(delta, first) for delta in in_place(shape, parts)] + [(whole, second)]
    exact = matrix(base) + second * dense(whole, [Run(0, 0, shape[0])], shape)
    for delta, runs in parts:
        exact += first * dense(delta, runs, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", data.draw(st.integers(1, 40)))
        patch.setattr(edit, "PIECE_ELEMENTS", data.draw(st.integers(1, 20)))
        cuts = data.draw(st.sets(st.integers(1, shape[0])).map(sorted))
        result = changed(base, *changes, dtype=dtype, cuts=cuts)
    assert torch.equal(result, rounded(exact, DTYPES[dtype or base.dtype]).reshape(shape))


@given(data=st.data(), part=shared(lambda shape: deltas(shape, **EXACT)), strength=STRENGTHS)
def test_fused_weight_gets_what_its_parts_would_get_apart(
    data: st.DataObject, part: Any, strength: float
) -> None:
    """For every kind, also one that sees the whole of its part; other rows keep their bits."""
    shape, parts = part
    base = data.draw(eighths("weight", shape))
    changes = in_place(shape, parts)
    cuts = data.draw(st.sets(st.integers(1, shape[0])).map(sorted))
    result = changed(
        base,
        *((delta, strength) for delta in changes),
        cuts=cuts if all(delta.by_rows for delta in changes) else [],
    )
    expected = base.tensor.clone()
    for delta, runs in parts:
        own = replace(base, tensor=base.tensor[rows_of(runs)])
        expected[rows_of(runs)] = changed(own, (delta, strength))
    others = sorted({*range(shape[0])} - {row for _, runs in parts for row in rows_of(runs)})
    assert torch.equal(result[others], base.tensor[others])
    is_exact = all(delta.additive is not None for delta in changes)
    before, after, wanted = (w.double() for w in (base.tensor, result, expected))
    # The squares of a norm are added up in another order, and what is rescaled by it is at most
    # three times as large as the weight before and after together, as half of it may be applied.
    roundings = (math.prod(shape) + 8) * computed_with(base)
    allowed = spacing(wanted, DTYPES[base.dtype]) + 3 * roundings * (before.abs() + wanted.abs())
    assert ((after - wanted).abs() <= (0.0 if is_exact else allowed)).all()


@given(data=st.data(), part=shared(additive), seed=st.none() | st.integers(0, 9))
def test_blocks_and_spans_of_shared_weights_do_not_show_in_the_bytes(
    data: st.DataObject, part: Any, seed: int | None
) -> None:
    shape, parts = part
    base = data.draw(eighths("weight", shape))
    dtype = data.draw(st.none() | st.sampled_from(["BF16", "F16"]))
    changes = [(delta, 0.5) for delta in in_place(shape, parts)]
    whole = changed(base, *changes, seed=seed, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", data.draw(st.integers(1, 20)))
        cuts = data.draw(st.sets(st.integers(1, shape[0])).map(sorted))
        pieces = changed(base, *changes, seed=seed, dtype=dtype, cuts=cuts)
    assert torch.equal(whole.view(torch.uint8), pieces.view(torch.uint8))


@given(data=st.data(), part=shared(lambda shape: loras(shape, **EXACT)))
def test_fidelity_of_placed_updates_is_that_of_their_rows(data: st.DataObject, part: Any) -> None:
    """Sums of exact differences, over the rows that the updates change and no others."""
    shape, parts = part
    base = data.draw(eighths("weight", shape))
    changes = [(delta, 1.0) for delta in in_place(shape, parts)]
    result, fidelity = changed_and_measured(base, *changes)
    intended = sum(dense(delta, runs, shape) for delta, runs in parts)
    assert isinstance(intended, Tensor)
    realised = result.double().reshape(matrix(base).shape) - matrix(base)
    close = 2.0**-20 * float((realised.square() + intended.square()).sum())
    assert fidelity.intended == pytest.approx(float(intended.square().sum()), abs=close)
    assert fidelity.error == pytest.approx(float((realised - intended).square().sum()), abs=close)
    assert fidelity.moved == (not torch.equal(result, base.tensor))


@pytest.mark.parametrize("seed", [None, 1], ids=["nearest", "stochastic"])
def test_conversion_of_other_rows_is_no_loss_of_an_update(seed: int | None) -> None:
    """As that of other tensors: a third is not exact in bfloat16, and the update is."""
    weight = Held("weight", torch.tensor([[1.0, 1.0], [1 / 3, 1 / 3]]), "F32")
    change = placed(one_row(1.0), (Run(0, 0, 1),), (2, 2))
    result, fidelity = changed_and_measured(weight, (change, 1.0), dtype="BF16", seed=seed)
    assert result[0].tolist() == [2, 2]
    assert (fidelity.relative_error, fidelity.intended) == (0, 2)


@pytest.mark.parametrize("seed", [None, 1], ids=["nearest", "stochastic"])
def test_rows_that_nothing_changes_are_converted_as_without_changes(
    seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "PIECE_ELEMENTS", 4)
    random = torch.Generator().manual_seed(2)
    weight = Held("weight", torch.randn(40, 2, generator=random), "F32")
    change = placed(one_row(1.0), (Run(0, 9, 1),), (40, 2))
    result = changed(weight, (change, 1.0), dtype="BF16", seed=seed)
    others = [row for row in range(40) if row != 9]
    assert torch.equal(result[others], changed(weight, dtype="BF16", seed=seed)[others])


def test_faint_update_is_measured_beside_one_that_depends_on_its_weight() -> None:
    """It would be lost in a float32 sum with its weight, where only the other one needs the sum."""
    weight = Held("weight", torch.tensor([[3.0, 4.0], [1.0, 1.0]]).bfloat16(), "BF16")
    dora = DoRA(one_row(0.0), held([5.0], "magnitude"), "row")
    faint = Diff(held([[2.0**-40] * 2], "diff"), one_row(1.0).scaling)
    parts = placed(dora, (Run(0, 0, 1),), (2, 2)), placed(faint, (Run(0, 1, 1),), (2, 2))
    _, fidelity = changed_and_measured(weight, *((part, 1.0) for part in parts))
    assert fidelity.intended == 2 * 2.0**-80


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_number_that_is_not_finite_is_refused_in_rows_that_nothing_changes(
    dtype: str, value: float
) -> None:
    weight = Held("weight", torch.tensor([[1.0, 1.0], [1.0, value]]), "F32")
    change = placed(one_row(1.0), (Run(0, 0, 1),), (2, 2))
    if math.isfinite(value) and dtype != "F16":
        changed(weight, (change, 1.0), dtype=dtype)
        return
    whence = "as the sum is too large" if math.isfinite(value) else "as does the base; name another"
    with pytest.raises(NonFiniteError, match=f"a NaN or an infinity after the merge .*{whence}"):
        changed(weight, (change, 1.0), dtype=dtype)


def one_row(size: float) -> LoRA:
    scaling = Scaling(1, 1, "direct", "config")
    return LoRA(held([[size]], "up"), held([[1.0, 1.0]], "down"), scaling, (1, 2))


# The cost


def test_each_row_is_computed_with_the_products_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three updates of thirds of a weight cost as one of the whole, without single operations."""
    counts = []

    def counted(stored: Tensor, rounded: Tensor, ups: list[Tensor], *rest: Any) -> Any:
        counts.append((len(stored), len(ups)))
        return products._loop(stored, rounded, ups, *rest)

    monkeypatch.setattr(products, "_add", counted)
    monkeypatch.setattr(edit, "measure", lambda *_, **__: pytest.fail("piece by piece"))
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 10)
    weight = Held("weight", torch.ones(12, 2).bfloat16(), "BF16")
    parts = [placed(one_row(8.0), (Run(0, row, 1),), (12, 2)) for row in (0, 4, 5, 11)]
    result = changed(weight, *((delta, 1.0) for delta in parts))
    assert result[:, 0].tolist() == [9, 1, 1, 1, 9, 9, 1, 1, 1, 1, 1, 9]
    assert counts == [(1, 1)] * 4


@pytest.mark.parametrize("kind", ["lora", "dora", "none"])
def test_stored_rows_are_read_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 4)
    read, rows = edit._read, list[int]()

    def counted(source: Any, begin: int, rounded: Tensor) -> Tensor:
        rows.extend(range(begin, begin + len(rounded)))
        return read(source, begin, rounded)

    monkeypatch.setattr(edit, "_read", counted)
    dora = DoRA(one_row(8.0), held([2.0], "magnitude"), "row")
    kinds: dict[str, Delta] = {"lora": one_row(8.0), "dora": dora}
    changes = [
        (placed(delta, (Run(0, 2, 1),), (5, 2)), 1.0)
        for name, delta in kinds.items()
        if name == kind
    ]
    changed(Held("weight", torch.ones(5, 2).bfloat16(), "BF16"), *changes, dtype="F16")
    assert rows == [0, 1, 2, 3, 4]


def test_change_that_sees_all_of_its_part_reads_no_other_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once before it is bound, as the changes before it leave them."""
    read, rows = blocks.read_block, list[int]()

    def counted(source: Any, begin: int, end: int) -> Tensor:
        rows.extend(range(begin, end))
        return read(source, begin, end)

    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 6)
    weight = Held("weight", torch.ones(9, 2), "F32")
    dora = DoRA(
        LoRA(held([[1.0]] * 4, "up"), held([[0.0, 0.0]], "down"), one_row(1.0).scaling, (4, 2)),
        held([8.0, 4.0], "magnitude"),
        "column",
    )
    changes = placed(one_row(2.0), (Run(0, 4, 1),), (9, 2)), placed(dora, (Run(0, 4, 4),), (9, 2))
    expected = changed(weight, *((delta, 1.0) for delta in changes))
    monkeypatch.setattr(edit, "read_block", counted)
    monkeypatch.setattr(
        edit, "_read", lambda source, begin, out: read(source, begin, begin + len(out))
    )
    assert torch.equal(changed(weight, *((delta, 1.0) for delta in changes)), expected)
    assert rows == [4, 5, 6, 7]
    # The columns of the rows 4 to 7 are (3, 1, 1, 1), of the norm √12.
    norm = torch.tensor([8.0, 4.0]) / 12**0.5
    torch.testing.assert_close(expected[4:8], torch.tensor([[3.0], [1], [1], [1]]) * norm)


# The account


def base_of(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A fused weight of q, k and v, two rows of each and one more; and the same rows apart."""
    weight = torch.randint(1, 16, (7, 4), generator=torch.Generator().manual_seed(3)) / 8
    apart = {name: weight[2 * n : 2 * n + 2].clone().to(dtype) for n, name in enumerate(NAMES)}
    return write_base(folder, {"qkv.weight": weight.to(dtype), **apart})


def merge_changes(
    base: Path,
    adapter: Path,
    changes: Callable[[Mapping[str, Update]], Mapping[str, Sequence[Change]]],
    patch: pytest.MonkeyPatch,
    write: WriteOptions | None = None,
) -> tuple[dict[str, Tensor], MergeReport]:
    """Merge changes, by tensor, that are made of the updates of an adapter, from files to files."""

    def planned(base: Checkpoint, adapters: Any, *_: Any) -> MergePlan:
        tensors = {name: PlannedTensor(name, s.dtype, s, s) for name, s in base.tensors.items()}
        for name, some in changes(adapters[0].updates).items():
            tensors[name] = replace(tensors[name], changes=tuple(some))
        updates = adapters[0].updates.values()
        keys = [f"0: {key}" for u in updates for s in u.delta.sources for key in s.keys]
        return MergePlan(base, tuple(adapters), (1.0,), tensors, Accounting(applied=keys), ())

    patch.setattr(merge, "plan_merge", planned)
    output = base.parent / "merged"
    report = loratools.merge(base, adapter, output=output, write=write)
    return load_file(output / "model.safetensors"), report


def fused(updates: Mapping[str, Update]) -> Mapping[str, Sequence[Change]]:
    """The updates of q, k and v in the first rows of `qkv.weight`."""
    return {"qkv.weight": [change(0, n, in_rows(u.delta, n)) for n, u in updates.items()]}


def change(adapter: int, target: str, delta: Delta) -> Change:
    return Change(adapter, target, delta, 1.0, None, is_transposed=False)


def in_rows(delta: Delta, name: str) -> Delta:
    return placed(delta, (Run(0, 2 * NAMES.index(name), 2),), (7, 4))


UP_IS_ZERO = "up is zero throughout, as before training or with a strength of 0"
LOST = "all of it is lost to rounding to bfloat16"
NO_PRODUCT = "the product of its factors is zero, or too small for float64"


def zero(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return down, 0 * up


def faint(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return down, 2.0**-20 * up


def disjoint(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of which neither is zero, and their product is."""
    return torch.tensor([[0.0], [1.0]]).expand_as(down), torch.tensor([1.0, 0.0]).expand_as(up)


@pytest.mark.parametrize(
    ("made", "reason", "seed"),
    [
        (zero, UP_IS_ZERO, None),
        (zero, UP_IS_ZERO, 5),
        (faint, LOST, None),
        (disjoint, NO_PRODUCT, None),
        (disjoint, NO_PRODUCT, 5),
    ],
)
def test_one_of_several_targets_in_a_tensor_that_changes_nothing_is_told(
    tmp_path: Path, made: Any, reason: str, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if each had a tensor of its own, whatever the others do beside it."""
    monkeypatch.setattr(steps, "_SPAN_BLOCKS", 1)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 12)
    base = base_of(tmp_path / "base", torch.bfloat16)
    k = pair("k", 2, 4, 2)
    idle = dict(zip(k, map(Tensor.contiguous, made(*k.values())), strict=True))
    factors = {**pair("q", 2, 4, 1), **idle, **pair("v", 2, 4, 3)}
    adapter = write_adapter(tmp_path / "adapter", factors, target_modules=["q", "k", "v"])
    write = WriteOptions(seed=seed)
    result, report = merge_changes(base, adapter, fused, monkeypatch, write)
    (part,) = report.idle
    assert (part.name, part.target, part.reason) == ("qkv.weight", "k.weight", reason)
    assert part.keys == tuple(f"0: base_model.model.k.lora_{name}.weight" for name in "AB")
    assert report.accounting.startswith("4 of 6 adapter tensors applied to 1 weight")
    assert report.warnings == (f"1 update changes nothing: {reason} (k.weight in qkv.weight)",)
    assert not report.equals_base
    before = load_file(base / "model.safetensors")["qkv.weight"]
    assert torch.equal(result["qkv.weight"][[2, 3, 6]], before[[2, 3, 6]])


def test_targets_that_change_their_rows_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is measured is added up over all steps."""
    monkeypatch.setattr(LoRA, "nothing", lambda _: pytest.fail("read again"))
    monkeypatch.setattr(steps, "_SPAN_BLOCKS", 1)
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 4)
    base = base_of(tmp_path / "base")
    factors = {**pair("q", 2, 4, 1), **pair("k", 2, 4, 2), **pair("v", 2, 4, 3)}
    adapter = write_adapter(tmp_path / "adapter", factors, target_modules=["q", "k", "v"])
    result, report = merge_changes(base, adapter, fused, monkeypatch)
    assert not report.idle
    added = torch.cat([product(pair(name, 2, 4, n)) for n, name in enumerate("qkv", 1)])
    before = load_file(base / "model.safetensors")["qkv.weight"]
    assert torch.equal(result["qkv.weight"], torch.cat([before[:6] + added, before[6:]]))
    assert report.fidelity["qkv.weight"].intended == pytest.approx(float(added.square().sum()))


def test_updates_that_take_each_other_back_in_some_rows_are_told_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second adapter takes back what the first does to q, and changes nothing else."""
    base = base_of(tmp_path / "base")
    factors = {**pair("q", 2, 4, 1), **pair("k", 2, 4, 2), **pair("v", 2, 4, 3)}
    adapter = write_adapter(tmp_path / "adapter", factors, target_modules=["q", "k", "v"])

    def changes(updates: Mapping[str, Update]) -> Mapping[str, Sequence[Change]]:
        back = in_rows(updates["q.weight"].delta.scaled(-1.0), "q.weight")
        return {"qkv.weight": [*fused(updates)["qkv.weight"], change(1, "q.weight", back)]}

    _, report = merge_changes(base, adapter, changes, monkeypatch)
    reason = "the updates of this weight take each other back"
    assert [(part.target, part.reason) for part in report.idle] == [
        ("q.weight", reason),
        (None, reason),
    ]


@pytest.mark.parametrize("idle", [["q"], ["k", "v"], ["q", "k", "v"]], ids="".join)
def test_tensor_that_changes_one_weight_of_several_is_applied(
    tmp_path: Path, idle: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fused update of weights that are apart: `down` is the same for all, `up` has rows of each.

    A weight that its rows leave as it is, is told; the adapter's tensors change nothing only if
    they change none of the weights.
    """
    base = base_of(tmp_path / "base")
    down, up = pair("qkv", 6, 4).values()
    for name in idle:
        up[2 * "qkv".index(name) : 2 * "qkv".index(name) + 2] = 0
    factors = {"qkv.lora_A.weight": down, "qkv.lora_B.weight": up}
    adapter = write_adapter(tmp_path / "adapter", factors, target_modules=["qkv"])

    def apart(updates: Mapping[str, Update]) -> Mapping[str, Sequence[Change]]:
        delta = updates["qkv.weight"].delta
        parts = {name: delta.rows(2 * n, 2 * n + 2) for n, name in enumerate(NAMES)}
        return {name: [change(0, "qkv.weight", part)] for name, part in parts.items()}

    _, report = merge_changes(base, adapter, apart, monkeypatch)
    assert {part.name: part.reason for part in report.idle} == {
        f"{name}.weight": UP_IS_ZERO for name in idle
    }
    applied = 0 if len(idle) == 3 else 2
    assert report.accounting.startswith(
        f"{applied} of 2 adapter tensors applied to {3 - len(idle)} weight"
    )
    assert len(report.to_json()["accounting"]["changing_nothing"]) == 2 - applied
    assert report.equals_base == (len(idle) == 3)


def test_change_that_sees_its_part_is_the_only_one_to_leave_the_fast_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A DoRA of q does not slow down a LoRA of k."""
    rows = []

    def counted(stored: Tensor, *rest: Any) -> Any:
        rows.append(len(stored))
        return products._loop(stored, *rest)

    monkeypatch.setattr(products, "_add", counted)
    weight = Held("weight", torch.ones(3, 2).bfloat16(), "BF16")
    dora = DoRA(one_row(8.0), held([2.0, 4.0], "magnitude"), "column")
    parts = placed(dora, (Run(0, 0, 1),), (3, 2)), placed(one_row(8.0), (Run(0, 2, 1),), (3, 2))
    assert changed(weight, *((part, 1.0) for part in parts)).tolist() == [[2, 4], [1, 1], [9, 9]]
    assert rows == [1]
