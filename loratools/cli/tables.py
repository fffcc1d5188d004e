"""Fields and tables as the lines that a person reads, at the width of the terminal."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from loratools.cli.failures import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


@final
@dataclass(frozen=True)
class Column:
    """A heading and its cells; numbers are aligned right, names too long for a line are folded."""

    heading: str
    cells: Sequence[str]
    is_number: bool = False


def field_lines(fields: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A line `label  text` for each field; fields with an empty text are left out."""
    table = _table(show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for label, text in fields:
        if text:
            table.add_row(label, _plain(text))
    yield from _lines(table)


def table_lines(columns: Sequence[Column]) -> Iterator[str]:
    """The lines of a table with headings, between two empty lines."""
    table = _table(show_header=True)
    for column in columns:
        table.add_column(
            column.heading,
            justify="right" if column.is_number else "left",
            no_wrap=column.is_number,
            overflow="fold",
        )
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(_plain, row))
    yield ""
    yield from _lines(table)
    yield ""


def human_size(size: int) -> str:
    """A number of bytes with four digits and a decimal unit: `1.176 MB`."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.4g} {unit}"
        number /= 1000
    return f"{number:.4g} TB"


def _plain(text: str) -> "Text":
    from rich.text import Text

    return Text(printable(text, limit=None))


def _table(*, show_header: bool) -> "Table":
    from rich.table import Table

    return Table(box=None, show_header=show_header, pad_edge=False, padding=(0, 2, 0, 0))


def _lines(table: "Table") -> Iterator[str]:
    """The lines of a table, without the spaces that fill each to the table's width."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        yield line.rstrip()
