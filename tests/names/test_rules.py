"""Rules map the names of tensors between two layouts, and the rows that they share."""

from fractions import Fraction

import pytest

from loratools.names.patterns import depths_of
from loratools.names.rules import Bound, Part, Rows, parse_rules

THIRD = Rows(((Bound(Fraction(1, 3), 0), Bound(Fraction(2, 3), 0)),))


def test_a_rule_holds_for_what_follows_its_name_and_the_longest_rule_wins() -> None:
    _, rules = parse_rules("a.{i} = b.{i}\na.{i}.qkv [1/3:2/3] = b.{i}.k\n")
    assert rules.parts("a.7.x.weight", {}) == (Part("a.7.x.weight", "b.7.x.weight", Rows()),)
    assert rules.parts("a.7.qkv.bias", {}) == (Part("a.7.qkv.bias", "b.7.k.bias", THIRD),)
    assert rules.wholes("b.7.k.bias", {}) == rules.parts("a.7.qkv.bias", {})
    assert rules.parts("c.weight", {}) is None


def test_numbers_are_computed_and_found_again_from_both_sides() -> None:
    _, rules = parse_rules("in.{3i+j+1}.0 = down.{i}.res.{j} where i = 0..3, j = 0..1\n")
    for i in range(4):
        for j in range(2):
            one, other = f"in.{3 * i + j + 1}.0.w", f"down.{i}.res.{j}.w"
            assert rules.parts(one, {}) == rules.wholes(other, {}) == (Part(one, other, Rows()),)
    assert rules.parts("in.3.0.w", {}) is None


def test_a_rule_for_the_last_block_is_only_for_that_one() -> None:
    _, rules = parse_rules("a.{i}.m = b.{i}.n\na.{last}.m [1/2:1, 0:1/2] = b.{last}.n\n")
    depths = depths_of(["a.0.m.weight", "a.11.m.weight"])
    swapped = rules.parts("a.11.m.weight", depths)
    assert swapped is not None
    assert swapped[0].rows.resolved(6, 6) == ((3, 6), (0, 3))
    plain = rules.parts("a.1.m.weight", depths)
    assert plain is not None
    assert plain[0].rows == Rows()


@pytest.mark.parametrize(
    ("text", "part", "rows"),
    [
        ("[0:n]", 6, ((0, 6),)),
        ("[-2n:-n]", 2, ((6, 8),)),
        ("[-n:]", 2, ((8, 10),)),
        ("[1/2:1, 0:1/2]", 10, ((5, 10), (0, 5))),
        ("[0:1/3]", 3, None),
        ("[0:n]", 11, None),
    ],
)
def test_rows_of_a_part(text: str, part: int, rows: tuple[tuple[int, int], ...] | None) -> None:
    _, rules = parse_rules(f"fused {text} = part")
    found = rules.parts("fused", {})
    assert found is not None
    assert found[0].rows.resolved(10, part) == rows


def test_a_tensor_that_diffusers_lacks_has_a_reason() -> None:
    fields, rules = parse_rules("name: X  # a comment\nold = none: the class has no such norm\n")
    assert fields == {"name": "X"}
    assert rules.parts("old.weight", {}) == ()
    assert rules.reason("old.weight", {}) == "the class has no such norm"


def test_a_line_that_is_no_rule_is_refused_with_its_number() -> None:
    with pytest.raises(ValueError, match="line 2: no rule: a => b"):
        parse_rules("a = b\na => b\n")
