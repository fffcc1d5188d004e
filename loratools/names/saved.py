"""Modules that PEFT saves whole, which it finds by the ends of their names."""

import re
from collections.abc import Iterable, Iterator
from typing import final


@final
class SavedNames:
    """The names in `modules_to_save`, and the parameters they mean: PEFT compares ends of names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_length: dict[int, set[str]] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Take one more name."""
        self._by_length.setdefault(len(name), set()).add(name)

    def holding(self, parameter: str) -> Iterator[str]:
        """The names of modules that a parameter belongs to."""
        for dot in (match.start() for match in re.finditer(r"\.", parameter)):
            for length, names in self._by_length.items():
                if length <= dot and (name := parameter[dot - length : dot]) in names:
                    yield name

    def hold(self, parameter: str) -> bool:
        """Whether a parameter belongs to one of the modules."""
        return next(self.holding(parameter), None) is not None
