"""Modules that PEFT saves whole, which it finds by suffixes of their names."""

import re
from collections.abc import Iterable, Iterator
from typing import final


@final
class SavedNames:
    """The names in `modules_to_save`, which PEFT compares with suffixes of modules' names."""

    def __init__(self, names: Iterable[str]) -> None:
        # A parameter is compared with one suffix of each length, so that the number of names in a
        # config does not matter.
        self._by_length: dict[int, set[str]] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Add a name of a module."""
        self._by_length.setdefault(len(name), set()).add(name)

    def holding(self, parameter: str) -> Iterator[str]:
        """Yield the names that mean a module which this parameter belongs to."""
        for dot in (match.start() for match in re.finditer(r"\.", parameter)):
            for length, names in self._by_length.items():
                if length <= dot and (name := parameter[dot - length : dot]) in names:
                    yield name

    def hold(self, parameter: str) -> bool:
        """Whether a parameter belongs to one of the saved modules."""
        return next(self.holding(parameter), None) is not None
