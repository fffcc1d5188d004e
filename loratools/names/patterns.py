"""Patterns of names, and the longest of many that fits a name.

A pattern is the words of a name between its dots. `{i}`, or any other word in braces, stands for
any number, and `{last}` for the greatest number in the model of blocks in this place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar, final

LAST = "{last}"
_NUMBER = "{}"
Value = TypeVar("Value")


class Fit(NamedTuple, Generic[Value]):
    """What is known by the longest pattern that fits a name, the numbers in it, and its rest."""

    values: Sequence[Value]
    numbers: tuple[str, ...]
    rest: tuple[str, ...]


@final
@dataclass
class Patterns(Generic[Value]):
    """A tree of patterns: what may come next, and the values of the pattern that ends here."""

    below: dict[str, "Patterns[Value]"] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)

    def add(self, pattern: Iterable[str], value: Value) -> None:
        """Add a value that is to be found by a pattern."""
        node = self
        for word in pattern:
            key = word if word == LAST or not word.startswith("{") else _NUMBER
            node = node.below.setdefault(key, Patterns())
        node.values.append(value)

    def find(self, name: str, depths: Mapping[str, int]) -> Fit[Value] | None:
        """The longest pattern that fits the whole name or its first words; None if there is none.

        `depths` are the greatest numbers in the model, by what precedes them in names.
        """
        words = tuple(name.split("."))
        best: Fit[Value] | None = None
        longest = 0
        stack: list[tuple[Patterns[Value], int, tuple[str, ...]]] = [(self, 0, ())]
        while stack:
            node, at, numbers = stack.pop()
            if node.values and at > longest:
                best, longest = Fit(node.values, numbers, words[at:]), at
            if at == len(words):
                continue
            word = words[at]
            # The last one that is pushed is tried first, and wins against those of equal length.
            if word.isdigit():
                if _NUMBER in node.below:
                    stack.append((node.below[_NUMBER], at + 1, (*numbers, word)))
                if LAST in node.below and depths.get(".".join(words[:at])) == int(word):
                    stack.append((node.below[LAST], at + 1, (*numbers, word)))
            if word in node.below:
                stack.append((node.below[word], at + 1, numbers))
        return best


def filled(pattern: Iterable[str], numbers: Iterable[str], rest: Iterable[str]) -> str:
    """The name that a pattern with these numbers stands for, followed by more words.

    >>> filled(("blocks", "{i}", "attn"), ["3"], ["weight"])
    'blocks.3.attn.weight'
    """
    left = iter(numbers)
    return ".".join([*(next(left) if w.startswith("{") else w for w in pattern), *rest])


def depths_of(names: Iterable[str]) -> dict[str, int]:
    """The greatest number that follows each beginning of these names.

    >>> depths_of(["blocks.0.attn.weight", "blocks.11.attn.weight"])
    {'blocks': 11}
    """
    found: dict[str, int] = {}
    for name in names:
        words = name.split(".")
        for at, word in enumerate(words):
            if at and word.isdigit():
                before = ".".join(words[:at])
                found[before] = max(found.get(before, 0), int(word))
    return found
