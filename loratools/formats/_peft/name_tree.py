"""A tree that finds all names which are suffixes of a module's path, in a few lookups."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, final

_T = TypeVar("_T", bound=Hashable)


@final
@dataclass
class _Node(Generic[_T]):
    """A part of names.

    Attributes:
        children: the parts that precede it in names, by length and text.
        ends: the values of names that begin with this part.
        wholes: the values of names that begin with this part and mean whole paths only.
    """

    children: "dict[int, dict[str, _Node[_T]]]" = field(default_factory=dict)
    ends: list[_T] = field(default_factory=list)
    wholes: list[_T] = field(default_factory=list)


@final
class NameTree(Generic[_T]):
    """Values by names. A name means each path that is the name, or ends with a dot and the name.

    A name is given in parts, between which a path may have any one character. A literal name is one
    part; a pattern whose dots mean any character is split at these dots.

    The root's children are the last parts of names. A path is compared, by hash, with the parts of
    each length that occurs, so the cost of a path does not grow with the number of names, unless
    the names were made to cause that. `lookups` counts the comparisons, and ordinary names stay far
    below `limit`.
    """

    def __init__(self) -> None:
        self._root: _Node[_T] = _Node()
        self.lookups = 0

    @staticmethod
    def limit(paths: int) -> int:
        """The most lookups to allow for so many paths: seconds of work, at 0.1 µs a lookup."""
        return 20_000_000 + 100 * paths

    def add(self, value: _T, parts: Sequence[str], *, is_whole: bool = False) -> None:
        """Add a name with its value; if `is_whole`, it means only the path that is the name."""
        node = self._root
        for part in reversed(parts):
            node = node.children.setdefault(len(part), {}).setdefault(part, _Node())
        (node.wholes if is_whole else node.ends).append(value)

    @property
    def is_empty(self) -> bool:
        """Whether the tree has no names."""
        return not self._root.children

    def find(self, path: str, end: int) -> Iterator[_T]:
        """The values whose names mean the path `path[:end]`, in no particular order."""
        todo = [(self._root, end)]
        while todo:
            node, end = todo.pop()
            self.lookups += len(node.children)
            for length, parts in node.children.items():
                begin = end - length
                child = parts.get(path[begin:end]) if begin >= 0 else None
                if child is None:
                    continue
                if begin == 0 or path[begin - 1] == ".":
                    yield from child.ends
                if begin == 0:
                    yield from child.wholes
                elif child.children:
                    todo.append((child, begin - 1))
