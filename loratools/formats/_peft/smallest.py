"""Finds the fewest patterns with which PEFT gives every module its rank, or its alpha."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

from loratools.formats._peft.patterns import Pattern, matched

_T = TypeVar("_T", int, float)
#: The most parts that a suffix of a path may have to be tried as a pattern.
_MOST_PARTS = 8
#: Names that need no escapes for `re`, except that a dot means any character.
_PLAIN = re.compile(r"[\w.-]+")


def smallest_patterns(numbers: Mapping[str, _T]) -> tuple[_T, dict[str, _T]]:
    """The default number, which needs no pattern, and the patterns of modules with another number.

    Modules share a pattern if all modules with the same suffix have the same number. No pattern
    matches a module with another number, so the order of patterns, which PEFT does not keep, does
    not matter.
    """
    if len(set(numbers.values())) == 1:
        return next(iter(numbers.values())), {}
    names = _names(numbers)
    of_name = {name: numbers[module] for module, name in names.items()}
    saved, common = Counter(of_name.values()), Counter(numbers.values())
    # The default saves the patterns of its modules, so it is the number that needs most patterns.
    default = max(common, key=lambda number: (saved[number], common[number]))
    needed = {name: number for name, number in of_name.items() if number != default}
    exact = _exact_as_they_are([name for name in needed if not name.is_whole], needed, numbers)
    return default, {name.pattern(name in exact): number for name, number in needed.items()}


@final
@dataclass(frozen=True)
class _Name:
    """A name for modules: a suffix of their paths, or one whole path."""

    text: str
    is_whole: bool

    def pattern(self, as_it_is: bool) -> str:
        """The pattern that matches this name: the name as it is, or with its dots escaped."""
        return self.text if as_it_is else "^" * self.is_whole + re.escape(self.text)


def _names(numbers: Mapping[str, _T]) -> dict[str, _Name]:
    """A name for each module: a suffix that it shares with modules of the same number, or its path.

    The path is marked as whole if it is also a suffix of a module with another number.
    """
    first: dict[str, _T] = {}
    mixed: set[str] = set()
    for module, number in numbers.items():
        mixed.update(end for end in _ends(module) if first.setdefault(end, number) != number)
    shortest = {m: next((end for end in _ends(m) if end not in mixed), m) for m in numbers}
    members = Counter(shortest.values())
    return {
        module: _Name(end if members[end] > 1 else module, is_whole=end in mixed)
        for module, end in shortest.items()
    }


def _exact_as_they_are(
    names: Sequence[_Name], needed: Mapping[_Name, _T], numbers: Mapping[str, _T]
) -> set[_Name]:
    """The names that need no escapes: as patterns they match no module with another number.

    Their dots then mean any character.
    """
    patterns = {Pattern("", n.text, "end"): n for n in names if _PLAIN.fullmatch(n.text)}
    hits = matched(list(patterns), list(numbers))
    return {
        name
        for pattern, name in patterns.items()
        if all(numbers[module] == needed[name] for module in hits[pattern])
    }


def _ends(module: str) -> Iterator[str]:
    """The suffixes of a path that begin after a dot, the shortest first, and at last the path."""
    begin = len(module)
    for _ in range(_MOST_PARTS):
        begin = module.rfind(".", 0, max(0, begin))
        if begin < 0:
            break
        yield module[begin + 1 :]
    yield module
