"""The formats that loratools knows: which kinds of update it reads and writes in each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

from loratools import formats
from loratools.formats import KNOWN_BY_SIGHT, Dialect
from loratools.showing.parts import Column, Part, Table
from loratools.showing.shown import Shown

#: What an adapter in a format is, on disk.
Stored = Literal["folder", "file", "folder or file"]


@final
@dataclass(frozen=True)
class Format:
    """A format of adapters; where it is only recognised, nothing of it is read.

    Attributes:
        name: its name, which `convert --to` takes if it is written.
        reads: the kinds of update that are read.
        writes: the kinds that are written.
        stored: what an adapter is on disk; None where none is read.
        merges: whether an adapter in the format can be merged into a base.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    stored: Stored | None
    merges: bool


@final
@dataclass(frozen=True, repr=False)
class Formats(Shown):
    """All formats: first those that are read, then those that are only recognised."""

    rows: tuple[Format, ...]

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """A row for each format."""
        rows = self.rows
        yield Table(
            [
                Column("format", [row.name for row in rows]),
                Column("reads", [", ".join(row.reads) or "–" for row in rows]),
                Column("writes", [_writes(row.reads, row.writes) for row in rows]),
                Column("merges", ["yes" if row.merges else "–" for row in rows]),
                Column("an adapter is a", [row.stored or "–" for row in rows]),
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """The formats as the documented object that `formats --json` prints."""
        return {
            "formats": [
                {
                    "name": row.name,
                    "reads": list(row.reads),
                    "writes": list(row.writes),
                    "merges": row.merges,
                    "stored": row.stored,
                }
                for row in self.rows
            ]
        }


def all_formats() -> Formats:
    """The formats in `loratools/formats`, and those that are recognised by sight."""
    readable = tuple(_described(d) for d in formats.dialects())
    known = {row.name for row in readable}
    others = dict.fromkeys(sight.dialect for sight in KNOWN_BY_SIGHT)
    seen = (Format(name, (), (), None, merges=False) for name in others if name not in known)
    return Formats((*readable, *seen))


def _described(dialect: Dialect) -> Format:
    stored = _stored(dialect)
    return Format(dialect.name, dialect.reads, dialect.writes, stored, merges=dialect.merges)


def _stored(dialect: Dialect) -> Stored:
    if dialect.is_folder is None:
        return "folder or file"
    return "folder" if dialect.is_folder else "file"


def _writes(reads: tuple[str, ...], writes: tuple[str, ...]) -> str:
    return "the same" if writes and reads == writes else ", ".join(writes) or "–"
