"""Tables and fields as lines of text, none wider than the terminal.

The widest column gives way first, down to the longest word in it; numbers and headings stay whole.
Columns that still have no room go into a table of their own beneath, which begins with the first
column again. So nothing is left out at any width, and a row is one line where there is no width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from loratools.errors import escaped
from loratools.showing.folding import fold, pieces, width_of
from loratools.showing.parts import Aside, Column, Fields, Part, Table

_GAP = 2
#: The first column is not narrower than this if it has longer names, which could not be read.
_READABLE = 12
#: A bar that is shorter than this says nothing.
_SHORTEST_BAR = 5


@final
@dataclass(frozen=True)
class Look:
    """The width of lines, None if there is none, and how headings and legends are marked."""

    width: int | None = None
    heading: Callable[[str], str] = str
    legend: Callable[[str], str] = str


@final
@dataclass(frozen=True)
class _Laid:
    """A column with its heading and cells as they are shown, and its width."""

    column: Column
    cells: tuple[str, ...]
    width: int
    least: int


def lines_of(parts: Iterable[Part], look: Look) -> Iterator[str]:
    """The lines of what is shown; an empty line is between a table and what else there is."""
    is_first, is_apart = True, False
    for part in parts:
        if is_apart or (isinstance(part, Table) and not is_first):
            yield ""
        is_first, is_apart = is_first and isinstance(part, Aside), isinstance(part, Table)
        if isinstance(part, Table):
            yield from _table_lines(part, look)
        elif isinstance(part, Fields):
            yield from _field_lines(part, look)
        else:
            # Left to the terminal to wrap, so that paths and commands can be copied.
            yield Aside(escaped(part)) if isinstance(part, Aside) else escaped(part)


def _field_lines(fields: Fields, look: Look) -> Iterator[str]:
    """A line `label  text` for each field, and more for a text that is folded."""
    rows = [(label, escaped(text)) for label, text in fields.rows if text]
    label_width = max((len(label) for label, _ in rows), default=0)
    room = None if look.width is None else max(look.width - label_width - _GAP, _READABLE)
    for label, text in rows:
        first, *others = fold(text, room)
        yield look.heading(label) + " " * (label_width - len(label) + _GAP) + first
        for line in others:
            yield " " * (label_width + _GAP) + line


def _table_lines(table: Table, look: Look) -> Iterator[str]:
    laid = [_laid(column, look.width) for column in table.columns]
    readable = max(laid[0].least, min(laid[0].width, _READABLE))
    laid[0] = replace(laid[0], least=readable if look.width is None else min(readable, look.width))
    for number, group in enumerate(_groups(laid, look.width)):
        if number:
            yield ""
        yield from _group_lines(group, table, look)
    if table.legend:
        yield from map(look.legend, fold(f"({table.legend})", look.width))


def _laid(column: Column, width: int | None) -> _Laid:
    cells = tuple(escaped(cell) for cell in column.shown)
    widest = max(map(width_of, [column.heading, *cells]))
    if column.is_number:
        return _Laid(column, cells, widest, widest)
    words = (piece.rstrip() for cell in [column.heading, *cells] for piece in pieces(cell))
    longest = max(map(width_of, words), default=0)
    least = 0 if column.is_bar else longest
    return _Laid(column, cells, widest, least if width is None else min(least, width))


# --- widths ---------------------------------------------------------------------------------------


def _groups(laid: Sequence[_Laid], width: int | None) -> Iterator[Sequence[_Laid]]:
    """The columns that go side by side, with their widths; each group has the first column."""
    if width is None:
        yield laid
        return
    first, *others = laid
    group = [first]
    for column in others:
        if len(group) > 1 and _fitted([*group, column], width) is None:
            yield _fitted(group, width) or _squeezed(group, width)
            group = [first]
        group.append(column)
    yield _fitted(group, width) or _squeezed(group, width)


def _fitted(group: Sequence[_Laid], width: int) -> Sequence[_Laid] | None:
    """The columns with widths at which they fit; None if they don't."""
    widths = [laid.width for laid in group]
    excess = sum(widths) + _GAP * (len(group) - 1) - width
    bars = [number for number, laid in enumerate(group) if laid.column.is_bar]
    for _ in range(excess):
        room = {n: widths[n] for n in bars or range(len(group)) if widths[n] > group[n].least}
        room = room or {n: widths[n] for n in range(len(group)) if widths[n] > group[n].least}
        if not room:
            return None
        widths[max(room, key=room.__getitem__)] -= 1
    return [replace(laid, width=each) for laid, each in zip(group, widths, strict=True)]


def _squeezed(group: Sequence[_Laid], width: int) -> Sequence[_Laid]:
    """Two columns, or one, that do not fit: words that are longer than what is left are divided."""
    least = [laid if laid.column.is_number else replace(laid, least=1) for laid in group]
    return _fitted(least, width) or least


# --- lines ----------------------------------------------------------------------------------------


def _group_lines(group: Sequence[_Laid], table: Table, look: Look) -> Iterator[str]:
    yield from map(look.heading, _row(group, [laid.column.heading for laid in group]))
    for number in range(table.count):
        if table.totals and number == table.count - table.totals:
            yield "─" * (sum(laid.width for laid in group) + _GAP * (len(group) - 1))
        yield from _row(group, [_cell(laid, number) for laid in group])


def _cell(laid: _Laid, number: int) -> str:
    cell = laid.cells[number]
    if not laid.column.is_bar:
        return cell
    if laid.width < _SHORTEST_BAR:
        return ""
    longest = max(map(len, laid.cells))
    return cell if laid.width >= longest else cell[: round(len(cell) * laid.width / longest)]


def _row(group: Sequence[_Laid], cells: Sequence[str]) -> Iterator[str]:
    """The lines of a row, of which all but the first have what is folded."""
    folded = [fold(cell, max(laid.width, 1)) for laid, cell in zip(group, cells, strict=True)]
    for number in range(max(map(len, folded))):
        texts = [lines[number] if number < len(lines) else "" for lines in folded]
        yield (" " * _GAP).join(map(_padded, group, texts)).rstrip()


def _padded(laid: _Laid, text: str) -> str:
    space = " " * (laid.width - width_of(text))
    return space + text if laid.column.is_number else text + space
