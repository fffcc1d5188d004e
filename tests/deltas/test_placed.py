"""A placed change does to its rows what the change does to a weight of these rows alone."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.deltas import Delta, Span, keys_of
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import LoRA
from loratools.deltas.placed import Run, alone, overlap, placed, touched_rows
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.testing import deltas, diffs, eighths, exact_scalings, loras, shapes, tuckers
from tests.deltas.computing import applied, held, lora
from tests.deltas.examples import PART, weight_for
from tests.deltas.places import places, rows_of
from tests.deltas.toys import NEAR, each_kind
from tests.narrowing import present

Shape = tuple[int, ...]
EXACT: dict[str, Any] = {"tensors": eighths, "scaling": exact_scalings}
ZERO = [[0.0] * 4] * 4


def added(shape: Shape) -> st.SearchStrategy[Delta]:
    """Additive changes."""
    return loras(shape, **EXACT) | tuckers(shape, **EXACT) | diffs(shape, **EXACT)


def formula(delta: Delta, runs: Sequence[Run], weight: Tensor, strength: float = 1.0) -> Tensor:
    """The weight whose rows of the runs are what the change makes of a weight of them alone."""
    changed, rows = weight.clone(), rows_of(runs)
    changed[rows] = applied(delta, weight[rows], strength)
    return changed


def matrix(data: st.DataObject, shape: Shape) -> Tensor:
    return data.draw(eighths("weight", (shape[0], math.prod(shape[1:])))).tensor.double()


@given(data=st.data(), shape=shapes(most=5), strength=st.sampled_from([1.0, 0.5, -2.0, 0.0]))
def test_rows_become_what_they_become_alone_and_others_stay(
    data: st.DataObject, shape: Shape, strength: float
) -> None:
    """For every kind, also one that sees its whole weight. Additive sums are exact; the norms of a
    DoRA and the components of a KaSA are those of the same numbers, added up in another order.
    """
    delta = data.draw(deltas(shape, **EXACT))
    runs, rows = data.draw(places(shape[0]))
    weight = matrix(data, (rows, *shape[1:]))
    expected = formula(delta, runs, weight, strength)
    change = placed(delta, runs, (rows, *shape[1:]))
    cuts = data.draw(st.sets(st.integers(1, rows)).map(sorted)) if change.by_rows else []
    result = applied(change, weight, strength, cuts, data.draw(st.integers(0, rows)))
    others = sorted({*range(rows)} - {*rows_of(runs)})
    assert torch.equal(result[others], weight[others])
    allowed = 0.0 if delta.additive is not None else NEAR * (1 + float(expected.norm()))
    assert (result - expected).abs().max() <= allowed


@each_kind
def test_every_kind_is_placed_also_one_that_nobody_knows(delta: Delta) -> None:
    runs = (Run(1, 1, 3), Run(0, 6, 1))
    weight = torch.cat([weight_for(delta).flip(0), 2 * weight_for(delta)])
    change = placed(delta, runs, (8, *delta.shape[1:]))
    expected = formula(delta, runs, weight)
    for cuts, block in (([], 0), ([], 3), ([4], 3), ([1, 6], 2)):
        if delta.by_rows or not cuts:
            result = applied(change, weight, cuts=cuts, block=block)
            assert (result - expected).abs().max() <= NEAR * (1 + float(expected.norm()))


@given(data=st.data(), shape=shapes(most=5))
def test_dense_rows_and_factors_are_those_of_the_larger_weight(
    data: st.DataObject, shape: Shape
) -> None:
    delta = data.draw(added(shape))
    runs, rows = data.draw(places(shape[0]))
    change = present(placed(delta, runs, (rows, *shape[1:])).additive)
    zero = torch.zeros(rows, math.prod(shape[1:]), dtype=torch.float64)
    expected = formula(delta, runs, zero)
    begin = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(begin + 1, rows))
    assert torch.equal(change.dense_rows(begin, end), expected[begin:end])
    factors = change.factored()
    assert (factors is None) == (delta.factored() is None)
    if factors is not None:
        assert torch.equal(factors.dense_rows(0, rows), expected)
        assert torch.equal(applied(change.with_low_rank(factors), zero), expected)
        assert torch.equal(factors.up.read_rows(begin, end), factors.up.read()[begin:end])


@given(data=st.data(), shape=shapes(most=5))
def test_rows_of_a_placed_change_are_right_or_refused(data: st.DataObject, shape: Shape) -> None:
    delta = data.draw(deltas(shape, **EXACT))
    runs, rows = data.draw(places(shape[0]))
    change = placed(delta, runs, (rows, *shape[1:]))
    begin = data.draw(st.integers(0, rows - 1))
    end = data.draw(st.integers(begin + 1, rows))
    weight = matrix(data, (rows, *shape[1:]))
    try:
        part = change.rows(begin, end)
    except UnsupportedError as error:
        assert delta.kind in str(error)  # noqa: PT017
        assert delta.additive is None or delta.factored() is None, "a LoRA has all its rows"
        return
    assert part.shape == (end - begin, *shape[1:])
    expected = applied(change, weight)[begin:end]
    allowed = 0.0 if delta.additive is not None else NEAR * (1 + float(expected.norm()))
    assert (applied(part, weight[begin:end]) - expected).abs().max() <= allowed


def test_halves_are_swapped() -> None:
    """[[1], [2]] @ [[3, 5]] with its rows swapped is [[6, 10], [3, 5]]."""
    change = placed(lora([[1.0], [2.0]], [[3.0, 5.0]]), (Run(0, 1, 1), Run(1, 0, 1)), (2, 2))
    assert applied(change, [[0.0, 0.0]] * 2).tolist() == [[6, 10], [3, 5]]
    assert present(change.low_rank).up.read().tolist() == [[2], [1]]


def test_transposed_update_of_some_rows_is_one_of_the_columns() -> None:
    change = placed(PART, (Run(0, 3, 1), Run(1, 1, 1)), (4, 4))
    assert torch.equal(applied(change.transposed(), ZERO).T, applied(change, ZERO))


def test_norms_of_a_fused_weight_are_those_of_the_part() -> None:
    """A magnitude for each input: its column's norm is over the rows of q, and not over those of k.

    Rows 0 and 1 are (3, 0) and (4, 2), with the norms (5, 2): at magnitudes of (10, 2), the first
    column doubles.
    """
    idle = lora([[0.0], [0.0]], [[1.0, 1.0]])
    change = placed(DoRA(idle, held([10.0, 2.0]), "column"), (Run(0, 0, 2),), (3, 2))
    assert applied(change, [[3.0, 0.0], [4.0, 2.0], [7.0, 9.0]]).tolist() == [
        [6, 0],
        [8, 2],
        [7, 9],
    ]


def test_rows_in_their_own_order_are_the_change_itself() -> None:
    assert placed(PART, (Run(0, 0, 2),), (2, 4)) is PART
    assert placed(PART, (Run(1, 1, 1), Run(0, 0, 1)), (2, 4)) is PART
    assert placed(PART, (Run(0, 0, 2),), (3, 4)) is not PART


@pytest.mark.parametrize(
    "runs",
    [
        (),
        (Run(0, 0, 1),),
        (Run(0, 0, 2), Run(0, 2, 2)),
        (Run(0, 0, 2), Run(1, 2, 1)),
        (Run(0, 0, 1), Run(1, 0, 1)),
        (Run(0, 3, 2),),
        (Run(0, -1, 2),),
        (Run(0, 0, 3),),
        (Run(0, 0, 2), Run(2, 2, 0)),
        (Run(0, 1, 0), Run(0, 0, 2)),
    ],
    ids=str,
)
def test_runs_give_every_row_one_place(runs: tuple[Run, ...]) -> None:
    with pytest.raises(ShapeMismatchError, match="does not fit a weight of shape"):
        placed(PART, runs, (4, 4))


def test_columns_are_all_of_the_weight() -> None:
    with pytest.raises(ShapeMismatchError, match=r"down: a change of shape \[2, 4\]"):
        placed(PART, (Run(0, 0, 2),), (4, 5))


def test_tensors_are_accounted_for_and_read_when_needed() -> None:
    class Unread:
        keys, dtype, shape = ("up",), "F32", (2, 2)

        def read(self) -> Tensor:
            raise AssertionError("read too early")

        def read_rows(self, begin: int, end: int) -> Tensor:
            raise AssertionError("read too early")

    whole = LoRA(Unread(), PART.down, PART.scaling, PART.shape)
    change = placed(whole, (Run(0, 1, 1), Run(1, 0, 1)), (4, 4))
    for delta in (change, change.rows(0, 3), change.scaled(0.5), whole.rows(0, 1)):
        assert keys_of(delta) == ("down", "up")
        assert present(delta.factored()).shape == delta.shape


@pytest.mark.parametrize(
    ("kind", "delta"),
    [
        (DoRA, DoRA(PART, held([3.0, 2.0, 1.0, 4.0]), "column")),
        (KaSA, KaSA(PART, held([1.0, -2.0]))),
    ],
)
def test_change_that_sees_its_whole_weight_is_bound_once(
    kind: Any, delta: Delta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in several runs: to be bound may mean a pass over the weight, or its decomposition."""
    bound = []

    def counted(self: Any, span: Span, strength: float) -> Any:
        bound.append((span.begin, span.end))
        return bind(self, span, strength)

    bind = kind.bind
    monkeypatch.setattr(kind, "bind", counted)
    applied(placed(delta, (Run(0, 3, 1), Run(1, 0, 1)), (4, 4)), ZERO, block=1)
    assert bound == [(0, 2)]


def test_changes_overlap_where_they_have_a_row_in_common() -> None:
    whole = lora([[1.0]] * 4, [[1.0] * 4])
    first, last = (placed(PART, (Run(0, at, 2),), (4, 4)) for at in (0, 2))
    around = placed(PART, (Run(0, 0, 1), Run(1, 3, 1)), (4, 4))
    middle = placed(PART, (Run(0, 1, 2),), (4, 4))
    assert not overlap(first, last)
    assert not overlap(around, middle)
    for one, other in ((first, around), (last, middle), (whole, last), (first, first)):
        assert overlap(one, other)
        assert overlap(other, one)
    assert touched_rows(whole) == ((0, 4),)
    assert touched_rows(around) == ((0, 1), (3, 4))


def test_vector_of_some_rows_has_one_orientation() -> None:
    vector = placed(Diff(held([1.0, -2.0]), PART.scaling), (Run(0, 1, 2),), (4,))
    assert vector.transposed() is vector


def test_factors_stand_for_no_change_that_depends_on_the_weight() -> None:
    """They would be the update without what sets the norms."""
    apart = (Run(0, 0, 1), Run(1, 3, 1), Run(2, 1, 1))
    update = lora([[1.0], [2.0], [3.0]], [[1.0, -1.0]])
    normed = placed(DoRA(update, held([1.0, 2.0, 3.0]), "row"), apart, (4, 2))
    with pytest.raises(UnsupportedError, match="no consecutive rows"):
        normed.rows(0, 2)
    with pytest.raises(UnsupportedError, match="cannot be one of the same columns"):
        normed.transposed()
    weight = [[0.0, 0.0]] * 4
    plain = placed(update, apart, (4, 2))
    assert applied(plain.rows(0, 2), weight[:2]).tolist() == applied(plain, weight)[:2].tolist()


def test_change_without_its_place_has_its_rows_in_its_own_order() -> None:
    weight = held([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    update = lora([[1.0], [2.0]], [[1.0, -1.0]])
    for runs, rows in (
        ((Run(0, 2, 1), Run(1, 1, 1)), [3, 2]),
        ((Run(0, 0, 1), Run(1, 2, 1)), [1, 3]),
        ((Run(0, 1, 2),), [2, 3]),
    ):
        change, own = alone(placed(update, runs, (3, 2)), weight)
        assert change is update
        assert own.read()[:, 0].tolist() == rows
