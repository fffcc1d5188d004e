"""The rows of several inspected things, and the table of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final, get_args, overload

from loratools.arguments import checked
from loratools.describing.description import Inspection
from loratools.describing.fields import with_models
from loratools.describing.tables import row_table
from loratools.errors import (
    LoratoolsError,
    escaped,
    shorten,
)
from loratools.files.collection import Other
from loratools.guesses import Reporting
from loratools.names.meant_for import meant_for
from loratools.parts import Provenance
from loratools.showing.parts import Part, human_size
from loratools.showing.shown import Shown

#: More ranks than these are shown as the lowest and the highest.
_MOST_RANKS = 3
#: What is said of each. An adapter is refused if no verb can use it as it is; what is no adapter
#: is something else that is known.
Verdict = Literal["ok", "fits", "problem", "refused", "does not fit", "no adapter", "unreadable"]


@final
@dataclass(frozen=True, repr=False)
class InspectionRow(Reporting):
    """One of several things that were inspected: an adapter, or what was there and is none.

    Attributes:
        path: its path, or its name on the Hub.
        name: the same without the folder, if that is all that was named.
        inspection: the description of an adapter; None for anything else.
        other: what it is, if it is known to be no adapter; else None.
        error: the error of opening it; None for an adapter, and for what was not opened.
        nbytes: the size of the adapter's tensors, or of the file; None for any other folder, or
            other file on the Hub.
    """

    path: str
    name: str
    inspection: Inspection | None
    other: Other | None
    error: LoratoolsError | None
    nbytes: int | None

    @property
    def verdict(self) -> Verdict:
        """The result for this row, in a word or two."""
        found = self.inspection
        if found is None:
            return "unreadable" if self.other is None else "no adapter"
        if any(note.severity == "refusal" for note in found.adapter.notes):
            return "refused"
        if found.coverage is not None and found.coverage.refusal is not None:
            return "does not fit"
        severities = {note.severity for note in found.notes}
        if severities - {"info"}:
            return "refused" if "refusal" in severities else "problem"
        return "ok" if found.coverage is None else "fits"

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong with it, or it is no adapter."""
        return self.verdict in {"ok", "fits", "no adapter"}

    @property
    def what(self) -> str | None:
        """What it is, in words; None if that is not known."""
        if self.other is not None:
            return self.other.name
        return None if self.inspection is None else "an adapter"

    @property
    def message(self) -> str | None:
        """Why there is no description, and what to do; None for an adapter, or without advice."""
        if self.error is not None:
            return str(self.error)
        return None if self.other is None else self.other.advice

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks of the adapter's factors, the smallest first."""
        groups = () if self.inspection is None else self.inspection.groups
        return tuple(sorted({group.rank for group in groups if group.rank is not None}))

    @property
    def models(self) -> tuple[str, ...]:
        """The image models that have all modules of the adapter, as far as names tell."""
        return () if self.inspection is None else meant_for(self.inspection.adapter.updates)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The kind, the ranks, the size and the base, as they are shown in a row of a table."""
        size = "" if self.nbytes is None else human_size(self.nbytes)
        if self.inspection is None:
            return "" if self.other is None else self.other.name, "", size, ""
        kinds = ", ".join(self.inspection.adapter.kinds) or "whole tensors"
        ranks = ", ".join(map(str, self.ranks))
        if len(self.ranks) > _MOST_RANKS:
            ranks = f"{self.ranks[0]}–{self.ranks[-1]}"
        return kinds, ranks, size, self._base(self.inspection.adapter.provenance)

    def _base(self, origin: Provenance) -> str:
        """The base that the adapter names, and the image model whose modules it has."""
        stated = origin.base or origin.family or ""
        if stated.startswith(("/", "~", ".")) or stated.count("/") > 1 or "\\" in stated:
            stated = stated.replace("\\", "/").rstrip("/").rpartition("/")[2]  # a path elsewhere
        return with_models(stated, self.models)

    def __repr__(self) -> str:
        return f"<InspectionRow {escaped(shorten(self.name))}: {self.verdict}>"

    def to_json(self) -> dict[str, Any]:
        """An object of the array that `inspect --json` prints of several."""
        row = {
            "path": self.path,
            "verdict": self.verdict,
            "what": self.what,
            "message": self.message,
            "bytes": self.nbytes,
            "models": list(self.models),
        }
        return row if self.inspection is None else {**row, **self.inspection.to_json()}


@final
@dataclass(frozen=True, repr=False)
class Inspections(Shown, Sequence[InspectionRow]):
    """The descriptions of several adapters, and of what else was named or in a named folder.

    Attributes:
        rows: one for each, in order.
    """

    rows: tuple[InspectionRow, ...]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> InspectionRow: ...
    @overload
    def __getitem__(self, index: slice) -> "Inspections": ...
    @checked
    def __getitem__(self, index: int | slice) -> "InspectionRow | Inspections":
        """A row, or some of them."""
        return Inspections(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    @property
    def adapters(self) -> tuple[Inspection, ...]:
        """The descriptions of those that are adapters."""
        return tuple(row.inspection for row in self.rows if row.inspection is not None)

    @property
    def others(self) -> tuple[InspectionRow, ...]:
        """The rows of what is known to be no adapter."""
        return tuple(row for row in self.rows if row.other is not None)

    @property
    def unreadable(self) -> tuple[InspectionRow, ...]:
        """The rows of what cannot be read, each with its error."""
        return tuple(row for row in self.rows if row.verdict == "unreadable")

    @property
    def is_sound(self) -> bool:
        """Whether each adapter is sound, and nothing is unreadable: the result of `--check`."""
        return all(row.is_sound for row in self.rows)

    def shown(self, *, verbose: bool = False) -> Iterator[Part]:
        """How many there are of each verdict, and a row for each."""
        verdicts = [row.verdict for row in self.rows]
        counts = ((verdicts.count(each), each) for each in get_args(Verdict))
        yield ", ".join(f"{count} {verdict}" for count, verdict in counts if count) or "nothing"
        if self.rows:
            yield row_table([(row.name, *row.cells, row.verdict) for row in self.rows])

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as the documented array that `inspect --json` prints of several."""
        return [row.to_json() for row in self.rows]
