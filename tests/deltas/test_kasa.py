"""W' = (W - its smallest components) + scaling * up @ diag(diagonal) @ down, by hand."""

import pytest

from loratools.deltas import keys_of
from loratools.deltas.kasa import KaSA
from loratools.errors import ShapeMismatchError
from tests.deltas.computing import applied, held, lora, once

LORA = lora([[1.0], [2.0]], [[3.0, 5.0]], once(2))


def test_smallest_component_gives_way_to_the_update() -> None:
    """diag(4, 1) keeps 4 alone. 2 * [[1], [2]] * 0.5 @ [[3, 5]] = [[3, 5], [6, 10]] is added."""
    delta = KaSA(LORA, held([0.5], "diagonal"))
    result = applied(delta, [[4.0, 0.0], [0.0, 1.0]])
    assert result.flatten().tolist() == pytest.approx([7, 5, 6, 10], rel=2.0**-48)
    assert (delta.kind, delta.shape, delta.by_rows) == ("KaSA", (2, 2), False)
    assert keys_of(delta) == ("down", "up", "diagonal")
    assert delta.low_rank is LORA


def test_rank_above_the_size_removes_the_whole_weight() -> None:
    """Only the update is left: [[1, 0], [0, 0]] + 2 * [[0, 0], [1, 0]] + 3 * [[0, 0], [0, 1]]."""
    wide = lora([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    result = applied(KaSA(wide, held([1.0, 2.0, 3.0])), [[4.0, 1.0], [7.0, 1.0]])
    assert result.flatten().tolist() == pytest.approx([1, 0, 2, 3], abs=2.0**-45)


def test_strength_goes_that_share_of_the_way() -> None:
    """Half way from diag(4, 1) to [[7, 5], [6, 10]]."""
    result = applied(KaSA(LORA, held([0.5])), [[4.0, 0.0], [0.0, 1.0]], 0.5)
    assert result.flatten().tolist() == pytest.approx([5.5, 2.5, 3, 5.5], rel=2.0**-48)
    assert applied(KaSA(LORA, held([0.5])), [[4.0, 0.0], [0.0, 1.0]], 0).tolist() == [
        [4, 0],
        [0, 1],
    ]


def test_transposed_is_the_change_of_the_transposed_weight() -> None:
    result = applied(KaSA(LORA, held([0.5])).transposed(), [[4.0, 0.0], [0.0, 1.0]])
    assert result.flatten().tolist() == pytest.approx([7, 6, 5, 10], rel=2.0**-48)


def test_there_is_a_diagonal_entry_for_every_rank() -> None:
    with pytest.raises(ShapeMismatchError, match="1 entry is expected"):
        KaSA(LORA, held([0.5, 0.5], "diagonal"))
