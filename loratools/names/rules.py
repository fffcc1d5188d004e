"""Rules that map the names of a model's tensors between two layouts, and the rows that they share.

A rule is a line `ORIGINAL [ROWS] = DIFFUSERS` of a file in `names/aliases/`:

    img_in = x_embedder
    double_blocks.{i}.img_attn.qkv [1/3:2/3] = transformer_blocks.{i}.attn.to_k
    final_layer.adaLN_modulation.1 [1/2:1, 0:1/2] = norm_out.linear

It names a module or a parameter; what follows in a name (`.weight`, modules inside) is the same on
both sides. Of several rules that fit a name, the one with the longest pattern holds.

`{i}` stands for any number, and `{last}` for the greatest number in the model of blocks in this
place. With `where i = 0..3, j = 0..1` at its end, a line stands for one rule for each of these
numbers, and may compute with them: `{3i+j+1}`.

`[ROWS]` are the rows of the original tensor that diffusers' tensor is made of, in its order: parts
of all rows, or with `n`, the number of rows of diffusers' tensor, `[0:n]`, `[-2n:-n]` or `[-n:]`.
`[transposed]` exchanges the axes of a matrix, and `[reshaped]` says that the same numbers are
stored in another shape. `ORIGINAL = none: REASON` is for a tensor that diffusers does not have.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from typing import Literal, NamedTuple, final

from loratools.names.patterns import LAST, Patterns, filled

Side = Literal["original", "diffusers"]

_RULE = re.compile(
    r"(?P<original>\S+)(\s+\[(?P<rows>[^\]]+)\])?\s+=\s+"
    r"(none:\s*(?P<reason>.+?)|(?P<diffusers>\S+)(\s+where\s+(?P<where>.+?))?)\s*"
)
_RANGE = re.compile(r"(\w)\s*=\s*(\d+)\.\.(\d+)")
_COMPUTED = re.compile(r"\{([^{}]*)\}")
_TERM = re.compile(r"([+-]?)(\d*)([a-z]?)")
_BOUND = re.compile(r"(-?)(\d*)n|(\d+)(?:/(\d+))?|")


@final
class Bound(NamedTuple):
    """A number of rows: `of_all` of all rows of the original tensor and `of_part` times the part's.

    The part is diffusers' tensor, which has some of the rows.
    """

    of_all: Fraction
    of_part: int

    def rows(self, of_all: int, of_part: int) -> int | None:
        """The number of rows; None if it is not a whole number of them."""
        value = self.of_all * of_all + self.of_part * of_part
        return int(value) if value.denominator == 1 else None


@final
@dataclass(frozen=True)
class Rows:
    """The rows of the original tensor that diffusers' tensor is made of, in its order.

    Attributes:
        ranges: pairs of bounds; all rows if there are none.
        is_transposed: whether the axes of the matrix are exchanged.
        is_reshaped: whether the numbers are stored in another shape.
    """

    ranges: tuple[tuple[Bound, Bound], ...] = ()
    is_transposed: bool = False
    is_reshaped: bool = False

    def resolved(self, of_all: int, of_part: int) -> tuple[tuple[int, int], ...] | None:
        """The ranges as numbers of rows; None if the part does not have exactly these rows."""
        if not self.ranges:
            return ((0, of_all),) if of_all == of_part else None
        found = []
        for begin, end in self.ranges:
            first, last = begin.rows(of_all, of_part), end.rows(of_all, of_part)
            if first is None or last is None or not 0 <= first < last <= of_all:
                return None
            found.append((first, last))
        return tuple(found) if sum(b - a for a, b in found) == of_part else None

    def part_rows(self, of_all: int) -> int | None:
        """The number of rows of the part; None if this does not follow from that of all rows."""
        bounds = [bound for pair in self.ranges for bound in pair]
        if any(bound.of_part for bound in bounds):
            return None
        if not self.ranges:
            return of_all
        size = sum((end.of_all - begin.of_all for begin, end in self.ranges), Fraction(0)) * of_all
        return int(size) if size.denominator == 1 else None


@final
class Part(NamedTuple):
    """A tensor of diffusers as rows of an original one, each by its name."""

    original: str
    diffusers: str
    rows: Rows


@final
@dataclass(frozen=True)
class Rule:
    """One line of a file, with its numbers computed; `diffusers` is None if it has no such tensor.

    `reason` says why it has none.
    """

    original: tuple[str, ...]
    diffusers: tuple[str, ...] | None
    rows: Rows = Rows()
    reason: str = ""


@final
@dataclass(frozen=True)
class Rules:
    """The rules of one architecture, to look names up in."""

    rules: tuple[Rule, ...]
    _trees: dict[Side, Patterns[Rule]] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        """Build the trees in which names are looked up, one for each side."""
        self._trees["original"], self._trees["diffusers"] = Patterns(), Patterns()
        for rule in self.rules:
            self._trees["original"].add(rule.original, rule)
            if rule.diffusers is not None:
                self._trees["diffusers"].add(rule.diffusers, rule)

    def parts(self, name: str, depths: Mapping[str, int]) -> tuple[Part, ...] | None:
        """The tensors of diffusers that an original tensor consists of, or is.

        `depths` are the greatest numbers of blocks, by what precedes them in names. None if no rule
        knows the name; none of them if diffusers has no such tensor.
        """
        found = self._trees["original"].find(name, depths)
        if found is None:
            return None
        return tuple(
            Part(name, filled(rule.diffusers, found.numbers, found.rest), rule.rows)
            for rule in found.values
            if rule.diffusers is not None
        )

    def wholes(self, name: str, depths: Mapping[str, int]) -> tuple[Part, ...] | None:
        """The original tensor that one of diffusers is, or is a part of, by each of its names."""
        found = self._trees["diffusers"].find(name, depths)
        if found is None:
            return None
        return tuple(
            Part(filled(rule.original, found.numbers, found.rest), name, rule.rows)
            for rule in found.values
        )

    def reason(self, name: str, depths: Mapping[str, int]) -> str | None:
        """The reason why diffusers does not have an original tensor; None if it does have it."""
        found = self._trees["original"].find(name, depths)
        rules = found.values if found else ()
        return next((rule.reason for rule in rules if rule.diffusers is None), None)

    def length(self, name: str, side: Side, depths: Mapping[str, int]) -> int:
        """The number of words of a name that the rule for it knows; 0 if there is none.

        The last word counts only alone: a rule knows a weight as well by the name of its module.
        """
        found = self._trees[side].find(name, depths)
        count = name.count(".") + 1
        return min(count - len(found.rest), max(count - 1, 1)) if found else 0

    def words(self, side: Side) -> frozenset[str]:
        """The first words of the names on a side."""
        return frozenset(self._trees[side].below)


def opposite(side: Side) -> Side:
    """The other side."""
    return "diffusers" if side == "original" else "original"


def parse_rules(text: str) -> tuple[dict[str, str], Rules]:
    """The fields (`name: value`) and the rules in the text of a file; `#` begins a comment.

    Raises:
        ValueError: a line is none of these.
    """
    fields: dict[str, str] = {}
    rules: list[Rule] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.partition("#")[0].strip()
        if not stripped:
            continue
        key, colon, value = stripped.partition(":")
        if colon and " " not in key and " = " not in stripped:
            fields[key] = value.strip()
            continue
        found = _RULE.fullmatch(stripped)
        if found is None:
            raise ValueError(f"line {number}: no rule: {stripped}")
        rules += _rules(found)
    return fields, Rules(tuple(rules))


def _rules(line: re.Match[str]) -> Iterator[Rule]:
    rows = _rows(line["rows"]) if line["rows"] else Rows()
    ranges = {name: range(int(a), int(b) + 1) for name, a, b in _RANGE.findall(line["where"] or "")}
    for values in product(*ranges.values()):
        numbers = dict(zip(ranges, values, strict=True))
        original = _computed(line["original"], numbers)
        if line["reason"]:
            yield Rule(original, None, rows, line["reason"])
        else:
            yield Rule(original, _computed(line["diffusers"], numbers), rows)


def _computed(pattern: str, numbers: Mapping[str, int]) -> tuple[str, ...]:
    """The words of a pattern, in which what can be computed of these numbers is."""

    def value(found: re.Match[str]) -> str:
        terms = [term for term in _TERM.findall(found[1]) if any(term)]
        names = {name for _, _, name in terms if name}
        if found[0] == LAST or not names <= numbers.keys():
            return found[0]
        signs = {"-": -1}
        total = sum(
            signs.get(sign, 1) * int(count or 1) * numbers.get(name, 1)
            for sign, count, name in terms
        )
        return str(total)

    return tuple(_COMPUTED.sub(value, pattern).split("."))


def _rows(text: str) -> Rows:
    if text == "transposed":
        return Rows(is_transposed=True)
    if text == "reshaped":
        return Rows(is_reshaped=True)
    pairs = [part.strip().split(":") for part in text.split(",")]
    return Rows(tuple((_bound(begin, 0), _bound(end, 1)) for begin, end in pairs))


def _bound(text: str, default: int) -> Bound:
    found = _BOUND.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"no number of rows: {text}")
    if not text.strip():
        return Bound(Fraction(default), 0)
    if found[3]:
        return Bound(Fraction(int(found[3]), int(found[4] or 1)), 0)
    times = int(found[2] or 1)
    return Bound(Fraction(1), -times) if found[1] else Bound(Fraction(0), times)
