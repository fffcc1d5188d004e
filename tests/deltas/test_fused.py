"""Changes of parts of a weight are one change of it, and one of it is a change of each part."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.deltas import Delta
from loratools.deltas._fused import Part, divided, fused
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA, Scaling
from loratools.deltas.placed import Run
from loratools.errors import UnsupportedError
from loratools.io.source import Held
from tests.deltas.computing import applied
from tests.deltas.examples import EXAMPLES
from tests.narrowing import present

WIDTH = 5
#: Powers of two, and others, which have to be multiplied into the factors.
SCALINGS = (0.5, 1.0, 3.0, 0.3)


def held(key: str, tensor: Tensor) -> Held:
    return Held(key, tensor, "F32")


def lora(seed: int, rows: int, rank: int, value: float = 0.5) -> LoRA:
    """A LoRA of small integers with an alpha that is not its rank."""
    generator = torch.Generator().manual_seed(seed)
    up, down = (
        torch.randint(-3, 4, shape, generator=generator).float()
        for shape in ((rows, rank), (rank, WIDTH))
    )
    up[0], down[0] = 1.0, seed + 1.0
    scaling = Scaling(value * rank, rank, "rank", "tensor")
    return LoRA(held(f"{seed}.up", up), held(f"{seed}.down", down), scaling, (rows, WIDTH))


def in_order(deltas: Sequence[Delta]) -> tuple[list[Part], int]:
    """The changes as those of parts that follow each other, and the number of all rows."""
    parts, at = [], 0
    for delta in deltas:
        parts.append(Part(delta, (Run(0, at, delta.shape[0]),)))
        at += delta.shape[0]
    return parts, at


def dense(delta: Delta) -> Tensor:
    return present(delta.additive).dense_rows(0, delta.shape[0])


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from(SCALINGS)),
        min_size=1,
        max_size=4,
    )
)
def test_a_fused_update_adds_to_each_part_what_its_own_adds(
    sizes: list[tuple[int, int, float]],
) -> None:
    loras = [lora(seed, *size) for seed, size in enumerate(sizes)]
    parts, rows = in_order(loras)
    whole = present(fused(parts, (rows + 2, WIDTH)).low_rank)
    expected = torch.cat([*map(dense, loras), torch.zeros(2, WIDTH)])
    values = {one.scaling.value for one in loras}
    if len(values) == 1:  # no scaling is multiplied into factors
        ups = [one.up.read() for one in loras]
        assert torch.equal(whole.up.read()[:rows], torch.block_diag(*ups))
        assert torch.equal(whole.down.read(), torch.cat([one.down.read() for one in loras]))
    # Products of small integers and these scalings need no rounding. Otherwise, with up to three
    # terms in a sum, there are at most 12 roundings of 2**-53 of the terms on both sides together.
    is_exact = values <= {0.5, 1.0} or values == {3.0}
    terms = [one.up.read().abs() @ one.down.read().abs() * one.scaling.value for one in loras]
    bound = torch.cat([*terms, torch.zeros(2, WIDTH)]).double() * (0 if is_exact else 2**-49)
    assert ((dense(whole) - expected).abs() <= bound).all()
    assert whole.rank == sum(one.rank for one in loras)
    assert whole.scaling.alpha == pytest.approx(whole.scaling.value * whole.rank)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 3))
def test_what_is_cut_and_fused_again_has_the_factors_that_it_had(
    sizes: list[int], rank: int
) -> None:
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    whole = lora(0, ends[-1], rank)
    ranges = list(pairwise(ends))
    cut = [part for part in divided(whole, ranges) if part is not None]
    if [present(part.low_rank).rank for part in cut] != [rank] * len(ranges):
        return  # `up` happens to be block-diagonal
    again = present(fused(in_order(cut)[0], whole.shape).low_rank)
    assert again.scaling == whole.scaling
    assert torch.equal(again.up.read(), whole.up.read())
    assert again.down is whole.down


def test_the_parts_of_a_block_diagonal_update_have_their_own_blocks_alone() -> None:
    """And the strength that the update has, whatever it was meant to have."""
    parts = [lora(seed, 3, rank) for seed, rank in enumerate((2, 1, 3))]
    whole = fused(in_order(parts)[0], (9, WIDTH))
    cut = [present(part) for part in divided(whole, [(0, 3), (3, 6), (6, 9)])]
    assert [present(one.low_rank).rank for one in cut] == [2, 1, 3]
    assert [present(one.scaling).alpha for one in cut] == [1.0, 0.5, 1.5]
    for one, part in zip(cut, parts, strict=True):
        assert torch.equal(dense(one), dense(part))


def test_a_part_without_an_update_is_left_out_when_the_update_is_cut() -> None:
    first, last = lora(0, 3, 2), lora(1, 3, 1)
    whole = fused([Part(first, (Run(0, 0, 3),)), Part(last, (Run(0, 6, 3),))], (9, WIDTH))
    one, none, other = divided(whole, [(0, 3), (3, 6), (6, 9)])
    assert none is None
    assert torch.equal(dense(present(one)), dense(first))
    assert torch.equal(dense(present(other)), dense(last))


def test_an_update_of_zeros_is_cut_into_updates_of_zeros() -> None:
    zero = lora(0, 4, 2).scaled(0)
    assert [one is not None for one in divided(zero, [(0, 2), (2, 4)])] == [True, True]


def test_parts_with_swapped_halves_have_their_rows_moved() -> None:
    half = lora(0, 4, 2)
    whole = fused([Part(half, (Run(0, 2, 2), Run(2, 0, 2)))], (4, WIDTH))
    assert torch.equal(dense(whole), dense(half)[[2, 3, 0, 1]])


def test_vectors_are_fused_by_rows() -> None:
    scalings = [Scaling(2.0, 1, "direct", "tensor"), Scaling(1.0, 1, "direct", "tensor")]
    diffs = [Diff(held("d", torch.arange(1.0, 4.0)), scaling) for scaling in scalings]
    whole = fused(in_order(diffs)[0], (6,))
    assert torch.equal(dense(whole).flatten(), torch.tensor([2.0, 4, 6, 1, 2, 3]).double())


def dora(seed: int, axis: str = "row") -> DoRA:
    size = 4 if axis == "row" else WIDTH
    return DoRA(lora(seed, 4, 2), held("m", torch.arange(1.0, size + 1)), axis)  # type: ignore[arg-type]


def test_a_dora_of_all_parts_sets_the_norm_of_each_row_as_theirs_do() -> None:
    weights = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    parts = [dora(0), dora(1)]
    whole = fused(in_order(parts)[0], (8, WIDTH))
    expected = torch.cat([applied(p, w) for p, w in zip(parts, weights.split(4), strict=True)])
    torch.testing.assert_close(applied(whole, weights), expected, rtol=2**-48, atol=0)


@pytest.mark.parametrize(
    ("deltas", "rows", "reason"),
    [
        ([dora(0)], 8, "the rows of the other parts would need magnitudes"),
        ([dora(0), lora(1, 4, 2)], 8, "the rows of the other parts would need magnitudes"),
        ([dora(0, "column"), dora(1, "column")], 8, "a magnitude for each input"),
        (
            [
                lora(0, 4, 2),
                Diff(held("d", torch.ones(4, WIDTH)), Scaling(1.0, 1, "direct", "tensor")),
            ],
            8,
            "LoRA and diff of parts of a weight",
        ),
    ],
)
def test_what_depends_on_other_rows_is_not_fused(
    deltas: list[Delta], rows: int, reason: str
) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        fused(in_order(deltas)[0], (rows, WIDTH))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_part_that_is_the_whole_is_itself(kind: str) -> None:
    delta = EXAMPLES[kind][0]
    assert fused(in_order([delta])[0], delta.shape) is delta
    assert divided(delta, [(0, delta.shape[0])]) == (delta,)
