"""A tensor of another layout has the rows of stored ones: all of them, in one order, or no name."""

from collections.abc import Mapping

import pytest

from loratools.names.other_names import OtherNames, Segment
from loratools.names.rules import parse_rules


def names(stored: Mapping[str, tuple[int, ...]], *rules: str) -> OtherNames:
    _, parsed = parse_rules("\n".join(rules))
    wholes = dict.fromkeys(".".join(rule.original) for rule in parsed.rules)
    found = OtherNames(stored)
    found.add_parts(part for whole in wholes for part in parsed.parts(whole, {}) or ())
    return found


def test_a_whole_has_every_row_of_its_parts_once() -> None:
    stored = {"a": (2, 3), "b": (2, 3)}
    whole = names(stored, "w [0:1/2] = a", "w [1/2:1] = b")
    assert whole.shape("w") == (4, 3)
    assert whole.segments("w", 4) == (Segment(0, 2, "a", 0), Segment(2, 2, "b", 0))


@pytest.mark.parametrize(
    "rules",
    [
        ("w [0:1/2] = a", "w [0:1/2] = b"),
        ("w [0:1/3] = a", "w [2/3:1] = b"),
        ("w [1/3:2/3] = a", "w [2/3:1] = b"),
        ("w [0:1/3] = a", "w [1/3:2/3] = b"),
    ],
    ids=["twice", "gap", "no first row", "no last row"],
)
def test_parts_that_repeat_or_leave_out_rows_are_no_whole(rules: tuple[str, str]) -> None:
    stored = {"a": (2, 3), "b": (2, 3)}
    count = 4 if "1/2" in rules[0] else 6
    assert names(stored, *rules).segments("w", count) is None


@pytest.mark.parametrize("other", [(2, 4), (2, 3, 1)])
def test_parts_of_different_widths_are_no_whole(other: tuple[int, ...]) -> None:
    assert names({"a": (2, 3), "b": other}, "w [0:1/2] = a", "w [1/2:1] = b").shape("w") == ()


def test_a_part_has_a_whole_number_of_rows() -> None:
    odd = names({"w": (5, 3)}, "w [0:1/2] = a", "w [1/2:1] = b")
    assert odd.shape("a") == (None, 3)
    assert all(odd.segments("a", count) is None for count in (2, 3))
