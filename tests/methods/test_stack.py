"""The largest entries are found exactly: as many as asked for, the first of equal ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.lowrank.factored import Factored
from loratools.methods import _stack
from loratools.methods._stack import Stack, cut, kept_largest, magnitude, share_of
from tests.methods.tasks import matrix, normals, task, trimmed

#: Larger than what is sorted whole, and than one block.
LARGE = (1500, 700)


def kept(update: Factored, count: int) -> tuple[Tensor, Tensor]:
    """What is kept of a matrix, and the matrix."""
    stack = Stack.of(task(update))
    end = cut(stack, magnitude, count)
    whole = torch.cat([blocks[0] for _, blocks in stack.blocks()])
    return stack.changed(lambda at, blocks: end.trimmed(blocks[0], at)), whole


def check(update: Factored, count: int) -> None:
    found, whole = kept(update, count)
    assert torch.equal(found.double(), trimmed(whole.double(), count))


def stepped(m: int, n: int) -> Factored:
    """Few different values: most entries have many equals."""
    generator = torch.Generator().manual_seed(3)
    up = torch.randint(-2, 3, (m, 2), generator=generator).double()
    return Factored(up, torch.randint(-2, 3, (2, n), generator=generator).double())


@given(m=st.integers(1, 9), n=st.integers(1, 9), data=st.data())
def test_small_matrices_keep_exactly_so_many(m: int, n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, m * n))
    check(normals(data.draw(st.integers(0, 99)), m, n, 2), count)
    check(stepped(m, n), count)


@pytest.mark.parametrize("count", [0, 1, 3, 700, 210_000, 525_000, 1_049_999, 1_050_000])
def test_large_matrices_keep_exactly_so_many(count: int) -> None:
    check(normals(0, *LARGE, 3), count)


@pytest.mark.parametrize("count", [1, 1000, 300_000, 900_000])
def test_large_matrices_of_few_values_keep_the_first_of_equal_ones(count: int) -> None:
    check(stepped(*LARGE), count)


@pytest.mark.parametrize("bracket", [(0.0, 1e-9), (1e9, math.inf), (1.0, 1.0)])
def test_wrong_bracket_costs_time_only(
    bracket: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stack, "_bracket", lambda *_: bracket)
    check(normals(0, 40, 30, 3), 500)


row, column = torch.arange(LARGE[0]), torch.arange(LARGE[1])
STRUCTURES = {
    "the last rows": (row >= LARGE[0] - 3, column >= 0),
    "one row in eight": (row % 8 == 7, column >= 0),
    "one column": (row >= 0, column == 500),
    "a corner": (row < 30, column < 30),
    "one entry": (row == 1400, column == 3),
}


@pytest.mark.parametrize("count", [1, 800, 300_000])
@pytest.mark.parametrize(("rows", "columns"), STRUCTURES.values(), ids=STRUCTURES)
def test_threshold_is_exact_wherever_the_large_entries_are(
    rows: Tensor, columns: Tensor, count: int
) -> None:
    """A sample tells where to look for it, and may have seen none of them."""
    plain = normals(0, *LARGE, 2)
    up, down = torch.where(rows, 1.0, 0.01)[:, None], torch.where(columns, 1.0, 0.01)
    check(Factored(plain.up * up, plain.down * down), count)


def test_blocks_are_the_same_at_each_pass() -> None:
    stack = Stack.of(task(normals(0, *LARGE, 5), normals(1, *LARGE, 7)))
    positions = []
    for (at, one), (_, other) in zip(stack.blocks(), stack.blocks(), strict=True):
        positions.append(at)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(positions) > 2


def test_entries_are_those_at_the_positions() -> None:
    update = normals(0, 20, 30, 3)
    positions = torch.tensor([0, 599, 30, 29])
    (found,) = Stack.of(task(update)).entries(positions)
    expected = (update.up @ update.down).flatten()[positions].float()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("size", "share", "count"),
    [(1, 0.01, 1), (3, 0.5, 2), (5, 0.5, 2), (10, 0.25, 2), (10, 0.14, 1), (10, 1.0, 10)],
)
def test_share_is_rounded_and_never_nothing(size: int, share: float, count: int) -> None:
    """Halves go to the even number: 1.5 to 2, and 2.5 to 2."""
    assert share_of(Stack.of(task(normals(0, 1, size, 1))), share) == count


@given(m=st.integers(1, 9), n=st.integers(1, 9), share=st.floats(0.01, 1))
def test_small_matrix_in_float64_keeps_its_share(m: int, n: int, share: float) -> None:
    values = normals(m * n, m, n, 2).dense()
    assert torch.equal(kept_largest(values, share), trimmed(values, max(1, round(share * m * n))))


def test_smallest_difference_in_float64_decides() -> None:
    values = matrix([[1.0, 1.0 + 2**-52, 1.0]]).dense()
    assert kept_largest(values, 1 / 3).tolist() == [[0.0, 1.0 + 2**-52, 0.0]]
    assert kept_largest(values, 2 / 3).tolist() == [[1.0, 1.0 + 2**-52, 0.0]]
