"""The loss that is printed is the true one, wherever in a weight the update lies.

The truth is computed in float64 from the result and the factors, over every element.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loratools.deltas import Delta
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA, Scaling
from loratools.deltas.rows import Rows
from loratools.io import blocks
from loratools.io.blocks import BLOCK_ELEMENTS
from loratools.io.source import Held
from loratools.merging.fidelity import Fidelity
from loratools.merging.report import WORRYING_LOSS
from tests.merging.computing import changed_and_measured

#: Two blocks, the second not full, of many pieces.
ROWS, COLUMNS = 1500, 1024
#: An entry of a sum is off by 2^-24 of itself, for each of three operations; a sum of n entries by
#: n·2^-24 at the most, and by √n·2^-24 if they are not all rounded in one direction.
CLOSE = 4 * math.sqrt(blocks.PIECE_ELEMENTS) * 2.0**-24
ROUNDINGS = pytest.mark.parametrize("seed", [None, 1], ids=["nearest", "stochastic"])

row, column = torch.arange(ROWS), torch.arange(COLUMNS)
BLOCK = BLOCK_ELEMENTS // COLUMNS

#: What the rows of an update are multiplied with, and then its columns.
STRUCTURES: dict[str, tuple[Tensor, Tensor | None]] = {
    "alike": (torch.ones(ROWS), None),
    "last third of the rows": (1.0 * (row >= 1000), None),
    "new tokens": (1.0 * (row >= ROWS - 20), None),
    "weak over strong": (torch.where(row < 750, 1e-4, 100.0), None),
    "strong over weak": (torch.where(row < 750, 100.0, 0.1), None),
    "odd rows": (1.0 * (row % 2), None),
    "one row in eight": (1.0 * (row % 8 == 7), None),
    "the first eighth of a block strong": (torch.where(row % BLOCK < BLOCK / 8, 100.0, 1.0), None),
    "the first eighth of a block absent": (1.0 * (row % BLOCK >= BLOCK / 8), None),
    "the last row": (1.0 * (row == ROWS - 1), None),
    "some columns": (torch.ones(ROWS), 1.0 * (column % 64 == 63)),
    "a corner": (1.0 * (row >= ROWS - 40), 1.0 * (column < 40)),
    "one entry": (30.0 * (row == 1200), 1.0 * (column == 5)),
    "spikes in both": (torch.exp(row % 97 / 8.0), torch.exp(column % 89 / -8.0)),
}


@dataclass(frozen=True)
class Truth:
    """The relative error and what is kept of an update, in float64."""

    loss: float
    kept: float

    @classmethod
    def of(cls, weight: Tensor, intended: Tensor, result: Tensor) -> "Truth":
        realised = result.double() - weight.double()
        length = float(intended.norm())
        return cls(
            float((realised - intended).norm()) / length,
            float((realised * intended).sum()) / length**2,
        )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(up: Tensor, down: Tensor) -> LoRA:
    shape = (up.shape[0], down.shape[1])
    scaling = Scaling(1, 1, "direct", "config")
    return LoRA(Held("up", up, "F32"), Held("down", down, "F32"), scaling, shape)


def dense(up: Tensor, down: Tensor) -> Tensor:
    return up.double() @ down.double()


def assert_told(
    weight: Tensor, intended: Tensor, *deltas: Delta, seed: int | None, rel: float = CLOSE
) -> Fidelity:
    """That the measure is the truth; far within the tenth that a reader may count on."""
    base = Held("weight", weight, "BF16")
    result, found = changed_and_measured(base, *((delta, 1.0) for delta in deltas), seed=seed)
    truth = Truth.of(weight, intended, result)
    assert found.relative_error == pytest.approx(truth.loss, rel=rel)
    assert found.kept == pytest.approx(truth.kept, rel=rel, abs=rel * max(1, truth.loss))
    return found


@ROUNDINGS
@pytest.mark.parametrize("name", STRUCTURES)
def test_loss_is_the_true_one_wherever_the_update_lies(name: str, seed: int | None) -> None:
    by_row, by_column = STRUCTURES[name]
    weight = (random(ROWS, COLUMNS) * 0.02).bfloat16()
    up = 1e-4 * random(ROWS, 4, seed=1) * by_row[:, None]
    down = random(4, COLUMNS, seed=2) * (1 if by_column is None else by_column)
    found = assert_told(weight, dense(up, down), lora(up, down), seed=seed)
    assert 0.0005 < found.relative_error < 20, "the case is one where rounding matters"


@ROUNDINGS
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_share_of_the_rows_speaks_for_the_others(seed: int | None, data: st.DataObject) -> None:
    """Any rows strong and any weak, at any period and in any place; the warning is never missed."""
    period, offset = data.draw(st.integers(1, 400)), data.draw(st.integers(0, 400))
    length = data.draw(st.integers(1, period))
    strong, weak = data.draw(st.floats(-4, 2)), data.draw(st.floats(-4, 2))
    rows = torch.arange(600)
    by_row = torch.where((rows + offset) % period < length, 10.0**strong, 10.0**weak)
    weight = (random(600, 150) * 0.02).bfloat16()
    up, down = 1e-3 * random(600, 2, seed=1) * by_row[:, None], random(2, 150, seed=2)
    base = Held("weight", weight, "BF16")
    result, found = changed_and_measured(base, (lora(up, down), 1.0), seed=seed)
    loss = Truth.of(weight, dense(up, down), result).loss
    assert found.relative_error == pytest.approx(loss, rel=CLOSE)
    assert loss < WORRYING_LOSS * (1 + CLOSE) or found.relative_error > WORRYING_LOSS * (1 - CLOSE)


@ROUNDINGS
def test_weights_of_two_scales(seed: int | None) -> None:
    """Half of the update is lost wholly, and the other half is kept."""
    weight = (random(ROWS, COLUMNS) * torch.where(row < 750, 0.02, 2e-6)[:, None]).bfloat16()
    up, down = 1e-6 * random(ROWS, 4, seed=1), random(4, COLUMNS, seed=2)
    assert_told(weight, dense(up, down), lora(up, down), seed=seed)


@pytest.mark.parametrize("size", [1e-7, 1e-9, 1e-12, 1e-25, 1e-36])
def test_update_below_the_last_bit_of_float32_is_lost_and_not_absent(size: float) -> None:
    """Where the weight is zero it is kept: a hundredth of it, so that sqrt(0.99) are lost."""
    weight = random(500, 300).add(3).bfloat16() * (torch.arange(300) % 100 != 0)
    up, down = size * random(500, 2, seed=1), random(2, 300, seed=2)
    found = assert_told(weight, dense(up, down), lora(up, down), seed=None)
    assert found.relative_error == pytest.approx(math.sqrt(0.99), rel=0.01)


@ROUNDINGS
def test_update_whose_squares_leave_the_range_of_float32(seed: int | None) -> None:
    weight = (random(200, 400) * 1e22).bfloat16()
    up, down = 1e20 * random(200, 2, seed=1), random(2, 400, seed=2)
    assert_told(weight, dense(up, down), lora(up, down), seed=seed)


@ROUNDINGS
def test_adapters_that_cancel(seed: int | None) -> None:
    """What they leave is a hundredth of each: of its entries, their sum in float32 rounds 2^-17."""
    weight = (random(ROWS, COLUMNS) * 0.02).bfloat16()
    up, down = 1e-2 * random(ROWS, 4, seed=1), random(4, COLUMNS, seed=2)
    rest = 1e-4 * random(ROWS, 4, seed=3)
    deltas = lora(up, down), lora(-up, down), lora(rest, down)
    assert_told(weight, dense(rest, down), *deltas, seed=seed, rel=2.0**-15)


def rescaled(weight: Tensor, up: Tensor, down: Tensor, magnitude: Tensor) -> Tensor:
    result = weight.double() + dense(up, down)
    found: Tensor = result * (magnitude.double() / result.norm(dim=1))[:, None] - weight.double()
    return found


@ROUNDINGS
@pytest.mark.parametrize(
    "scale", [torch.where(row < 100, 1.3, 1.001), 1 + 0.01 * (row % 8 == 7)], ids=["some", "eighth"]
)
def test_dora_that_rescales_some_rows(scale: Tensor, seed: int | None) -> None:
    """The computed weight is off by a few 2^-24, of which the update is 2^-10."""
    weight = (random(ROWS, COLUMNS) * 0.02).bfloat16()
    up, down = 1e-6 * random(ROWS, 4, seed=1), random(4, COLUMNS, seed=2)
    magnitude = weight.float().norm(dim=1) * scale
    dora = DoRA(lora(up, down), Held("magnitude", magnitude, "F32"), "row")
    intended = rescaled(weight, up, down, magnitude)
    assert_told(weight, intended, dora, seed=seed, rel=2.0**-12)


@pytest.mark.parametrize("strength", [1e-3, 1e-6, 1e-9])
def test_small_share_of_a_dora_is_lost_and_not_absent(strength: float) -> None:
    weight = (random(300, 200) * 0.02 + 1).bfloat16()
    up, down = torch.zeros(300, 1), torch.zeros(1, 200)
    magnitude = weight.float().norm(dim=1) * 1.01
    dora = DoRA(lora(up, down), Held("magnitude", magnitude, "F32"), "row")
    intended = rescaled(weight, up, down, magnitude) * strength
    base = Held("weight", weight, "BF16")
    result, found = changed_and_measured(base, (dora, strength))
    truth = Truth.of(weight, intended, result)
    assert found.relative_error == pytest.approx(truth.loss, rel=CLOSE)
    assert found.intended == pytest.approx(float(intended.square().sum()), rel=2.0**-12)


@ROUNDINGS
def test_rows_that_are_replaced(seed: int | None) -> None:
    weight = (random(ROWS, COLUMNS) * 0.02).bfloat16()
    new = weight[-3:].float() + 1e-4 * random(3, COLUMNS, seed=1)
    intended = torch.zeros(ROWS, COLUMNS).double()
    intended[-3:] = new.double() - weight[-3:].double()
    places = tuple(range(ROWS - 3, ROWS))
    rows = Rows(places, Held("rows", new, "F32"), (ROWS, COLUMNS))
    assert_told(weight, intended, rows, seed=seed, rel=2.0**-12)


def test_one_row_wider_than_a_piece_and_a_column() -> None:
    for shape in ((2, 2 * blocks.PIECE_ELEMENTS), (3 * blocks.PIECE_ELEMENTS, 1)):
        weight = (random(*shape) * 0.02).bfloat16()
        up, down = 1e-4 * random(shape[0], 1, seed=1), random(1, shape[1], seed=2)
        assert_told(weight, dense(up, down), lora(up, down), seed=None)


def test_update_of_nothing_is_kept_and_costs_no_warning() -> None:
    weight = (random(ROWS, COLUMNS) * 0.02).bfloat16()
    up, down = torch.zeros(ROWS, 1), random(1, COLUMNS)
    result, found = changed_and_measured(Held("weight", weight, "BF16"), (lora(up, down), 1.0))
    assert torch.equal(result, weight)
    assert found == Fidelity()


@pytest.mark.parametrize("pieces", [1000, 2**14])
def test_pieces_do_not_show_in_the_result_nor_much_in_the_measure(
    pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loratools.merging import edit

    weight = Held("weight", (random(300, 400) * 0.02).bfloat16(), "BF16")
    update = lora(torch.full((300, 1), 2.0**-10), torch.full((1, 400), 1.0))
    whole, expected = changed_and_measured(weight, (update, 1.0))
    monkeypatch.setattr(edit, "PIECE_ELEMENTS", pieces)
    result, found = changed_and_measured(weight, (update, 1.0))
    assert torch.equal(result, whole)
    assert found.relative_error == pytest.approx(expected.relative_error, rel=CLOSE)
