"""Names that mean the paths of modules they are the ends of: all that mean a path, at once."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, final

_T = TypeVar("_T", bound=Hashable)


@final
@dataclass
class _Node(Generic[_T]):
    """What comes before a part, by its length; and the names that begin here."""

    children: "dict[int, dict[str, _Node[_T]]]" = field(default_factory=dict)
    ends: list[_T] = field(default_factory=list)
    wholes: list[_T] = field(default_factory=list)


@final
class NameTree(Generic[_T]):
    """Values by names. A name means a path that ends with it, from the start or after a dot.

    A name is given in parts, between which a path may have any one character: in one part where it
    is meant as it stands, in several where it is a pattern with dots that mean any character.
    The tree begins with last parts; a path is compared with parts of equal length only. So the cost
    of a path does not grow with the number of names, unless they are made for that: `lookups`
    counts them, and `limit` is what names that nobody made for that stay below by far.
    """

    def __init__(self) -> None:
        self._root: _Node[_T] = _Node()
        self.lookups = 0

    @staticmethod
    def limit(paths: int) -> int:
        """The most lookups for so many paths: seconds, as one takes 0.1 µs."""
        return 20_000_000 + 100 * paths

    def add(self, value: _T, parts: Sequence[str], *, is_whole: bool = False) -> None:
        """Add a name; one that `is_whole` means no path but itself."""
        node = self._root
        for part in reversed(parts):
            node = node.children.setdefault(len(part), {}).setdefault(part, _Node())
        (node.wholes if is_whole else node.ends).append(value)

    @property
    def is_empty(self) -> bool:
        """Whether it has no names."""
        return not self._root.children

    def find(self, path: str, end: int) -> Iterator[_T]:
        """The values whose names mean the path that ends at `end`, in no order."""
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
