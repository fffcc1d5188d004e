"""The fewest names by which PEFT gives every module its number: its rank, or its alpha."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

from loratools.formats.peft.patterns import Pattern, matched

_T = TypeVar("_T", int, float)
#: The ends of a path that may be a pattern have at most so many parts.
_MOST_PARTS = 8
#: Names that mean to `re` nearly what they say: a dot is any character.
_PLAIN = re.compile(r"[\w.-]+")


def smallest_patterns(numbers: Mapping[str, _T]) -> tuple[_T, dict[str, _T]]:
    """The number that needs no pattern, and the patterns for modules that have another one.

    Modules share a pattern where all that end in the same way have the same number. No pattern
    matches a module of another number, so their order means nothing: PEFT does not keep it.
    """
    if len(set(numbers.values())) == 1:
        return next(iter(numbers.values())), {}
    names = _names(numbers)
    of_name = {name: numbers[module] for module, name in names.items()}
    saved, common = Counter(of_name.values()), Counter(numbers.values())
    default = max(common, key=lambda number: (saved[number], common[number]))
    needed = {name: number for name, number in of_name.items() if number != default}
    exact = _exact_as_they_are([name for name in needed if not name.is_whole], needed, numbers)
    return default, {name.pattern(name in exact): number for name, number in needed.items()}


@final
@dataclass(frozen=True)
class _Name:
    """The end of a path, or a whole one."""

    text: str
    is_whole: bool

    def pattern(self, as_it_is: bool) -> str:
        """What PEFT is given for it."""
        return self.text if as_it_is else "^" * self.is_whole + re.escape(self.text)


def _names(numbers: Mapping[str, _T]) -> dict[str, _Name]:
    """A name for each module: an end that it shares with others of its number, or its path.

    A path is a whole one where a module of another number ends with it.
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
    """The names that match no module of another number, though their dots are any character."""
    patterns = {Pattern("", n.text, "end"): n for n in names if _PLAIN.fullmatch(n.text)}
    hits = matched(list(patterns), list(numbers), "")
    return {
        name
        for pattern, name in patterns.items()
        if all(numbers[module] == needed[name] for module in hits[pattern])
    }


def _ends(module: str) -> Iterator[str]:
    """The ends of a path that begin after a dot, the shortest first, and the path."""
    begin = len(module)
    for _ in range(_MOST_PARTS):
        begin = module.rfind(".", 0, max(0, begin))
        if begin < 0:
            break
        yield module[begin + 1 :]
    yield module
