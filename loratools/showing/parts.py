"""What a report is shown as: lines, fields and tables, before they are text or HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final


@final
class Aside(str):
    """A line beside the report itself, such as a note; the command line prints it on stderr."""

    __slots__ = ()


@final
@dataclass(frozen=True)
class Fields:
    """Labels, each with a text; fields with an empty text are not shown."""

    rows: Sequence[tuple[str, str]]


@final
@dataclass(frozen=True)
class Column:
    """A heading and its cells.

    Attributes:
        heading: with the unit of the numbers, if they have one.
        cells: a text for each row; an empty number is shown as a dash.
        is_number: whether cells are aligned right, and never divided.
        is_bar: whether cells are bars, which are drawn shorter where there is little room.
        legend: a few plain words on what the heading means, if it doesn't say so itself.
    """

    heading: str
    cells: Sequence[str]
    is_number: bool = False
    is_bar: bool = False
    legend: str = ""

    @property
    def shown(self) -> list[str]:
        """The cells as they are shown."""
        return [cell or "–" for cell in self.cells] if self.is_number else [*self.cells]


@final
@dataclass(frozen=True)
class Table:
    """Columns of equal length; the last `totals` rows sum up the others."""

    columns: Sequence[Column]
    totals: int = 0

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.columns[0].cells)

    @property
    def legend(self) -> str:
        """What the headings mean that need to be explained, in one line; empty if none does."""
        return "; ".join(f"{c.heading}: {c.legend}" for c in self.columns if c.legend)


Part = str | Fields | Table

#: Legends of columns that several tables have.
TARGETS = "targets of this name, * is any number"
KEPT = "share of ‖ΔW‖² that is kept"
LOST = "norm of what is lost, relative to ‖ΔW‖"


def aside(label: str, text: str) -> Aside:
    """A line `label: text`, such as a note or a warning."""
    return Aside(f"{label}: {text}")


def numbers(heading: str, cells: Iterable[str], legend: str = "") -> Column:
    """A column of numbers."""
    return Column(heading, [*cells], is_number=True, legend=legend)


def human_size(size: int) -> str:
    """A number of bytes with four digits and a decimal unit: `1.176 MB`."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.4g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"


def percentage(share: float) -> str:
    """A share in percent, which is `<100` where a share below 1 would round to 100."""
    text = f"{100 * share:.4g}"
    return "<100" if share < 1 and text == "100" else text
