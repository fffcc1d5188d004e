"""What a report shows as HTML, for notebooks: plain tables, in which every text is escaped."""

from collections.abc import Iterable, Iterator
from html import escape

from loratools.errors import escaped
from loratools.showing.parts import Aside, Column, Fields, Part, Table

#: The most rows of a table, and the most lines of one sort: a notebook's cell stays readable.
_MOST = 24


def html_of(parts: Iterable[Part]) -> str:
    """The HTML of what is shown; of long tables and lists, only the beginning and the totals."""
    found = [*parts]
    lines = [part for part in found if isinstance(part, str)]
    blocks = [*_limited([part for part in lines if not isinstance(part, Aside)])]
    blocks += [_block(part) for part in found if not isinstance(part, str)]
    blocks += _limited([part for part in lines if isinstance(part, Aside)])
    return f"<div>{''.join(blocks)}</div>"


def _limited(lines: list[str]) -> Iterator[str]:
    yield from (f"<div>{_text(line)}</div>" for line in lines[:_MOST])
    if len(lines) > _MOST:
        yield f"<div>… and {len(lines) - _MOST} more lines</div>"


def _block(part: Fields | Table) -> str:
    if isinstance(part, Table):
        return _table(part)
    rows = (
        f'<tr><th style="text-align:left">{_text(label)}</th>'
        f'<td style="text-align:left">{_text(text)}</td></tr>'
        for label, text in part.rows
        if text
    )
    return f"<table>{''.join(rows)}</table>"


def _table(table: Table) -> str:
    columns = [column for column in table.columns if not column.is_bar]
    shown = [column.shown for column in columns]
    heads = "".join(_cell("th", column, column.heading) for column in columns)
    first_total = table.count - table.totals
    rows = [_row("td", columns, shown, n) for n in range(min(first_total, _MOST))]
    if first_total > _MOST:
        rows.append(f'<tr><td colspan="{len(columns)}">… and {first_total - _MOST} more</td></tr>')
    rows += [_row("th", columns, shown, n) for n in range(first_total, table.count)]
    legend = f"<div><small>{_text(table.legend)}</small></div>" if table.legend else ""
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<table>{body}</table>{legend}"


def _row(tag: str, columns: list[Column], shown: list[list[str]], number: int) -> str:
    cells = (_cell(tag, c, cells[number]) for c, cells in zip(columns, shown, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(tag: str, column: Column, text: str) -> str:
    side = "right" if column.is_number else "left"
    return f'<{tag} style="text-align:{side}">{_text(text)}</{tag}>'


def _text(text: str) -> str:
    return escape(escaped(text))
