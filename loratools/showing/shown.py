"""How objects look in a notebook and at Python's prompt: reports in full, options in one line."""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from loratools.errors import escaped, shorten
from loratools.guesses import Reporting
from loratools.showing.parts import Aside, Part

#: The most characters of a report's `repr`.
_LONGEST = 400


class Shown(Reporting, ABC):
    """A report that the command line prints and a notebook shows, made of the same parts."""

    @abstractmethod
    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """The lines, fields and tables that the command prints; `verbose` has every tensor."""

    def __repr__(self) -> str:
        lines = [p for p in self.shown() if isinstance(p, str) and not isinstance(p, Aside)]
        return f"<{type(self).__name__}: {escaped(shorten('; '.join(lines), _LONGEST))}>"

    def __str__(self) -> str:
        """The report as the command prints it: `print(report)` shows its tables."""
        from loratools.showing.lines import Look, lines_of

        return "\n".join(lines_of(self.shown(), Look()))

    def _repr_html_(self) -> str:
        from loratools.showing.html import html_of

        return html_of(self.shown())


class Brief:
    """A dataclass whose `repr` has only what differs from the defaults, and not all of much."""

    def __repr__(self) -> str:
        given = [
            f"{field.name}={shorten(_BRIEFLY.repr(value))}"
            for field in fields(self)  # type: ignore[arg-type]  # a dataclass is made of each
            if (value := getattr(self, field.name)) != _default(field)
        ]
        return f"{type(self).__name__}({', '.join(given)})"


def _default(field: "Field[Any]") -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


#: Shows the first items of a list and of a dictionary, and the ends of a text.
_BRIEFLY = reprlib.Repr()
_BRIEFLY.maxstring = _BRIEFLY.maxother = 80
