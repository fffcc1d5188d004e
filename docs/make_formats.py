"""Write the table of formats into `README.md`; with `--check`, only compare."""

import sys
from pathlib import Path

from loratools.describing.formats import Format, all_formats

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "README.md"
BEGIN, END = "<!-- formats -->\n", "<!-- end of formats -->\n"


def page() -> str:
    """The text of the page, with the current table between its marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


def table() -> str:
    """The table of formats in Markdown."""
    head = ("format", "reads", "writes", "merges", "an adapter is a")
    rows = [head, ("---",) * len(head), *map(_cells, all_formats().rows)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(row: Format) -> tuple[str, ...]:
    page = f"docs/formats/{row.name}.md"
    name = f"[`{row.name}`]({page})" if (ROOT / page).exists() else f"`{row.name}`"
    reads, writes = ", ".join(row.reads), ", ".join(row.writes)
    same = "the same" if reads and reads == writes else writes
    merges = "yes" if row.merges else "–"
    return name, reads or "–, only recognised", same or "–", merges, row.stored or "–"


def main() -> None:
    """Write the page, or with `--check` exit with an error if it is not current."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE}: not what `loratools formats` says now; run scripts/docs")


if __name__ == "__main__":
    main()
