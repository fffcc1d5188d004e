"""Describes several adapters, one after another: those of a list, and those in folders."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, final, get_args, overload

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.describing.describe import Inspecting
from loratools.describing.description import Inspection
from loratools.describing.fields import with_models
from loratools.describing.tables import row_table
from loratools.errors import (
    FormatError,
    LoratoolsError,
    NotAnAdapterError,
    escaped,
    path_errors,
    shorten,
)
from loratools.files.collection import Item, Other, contents, is_collection, other_by_name, whole_at
from loratools.files.opening import AdapterLike
from loratools.files.place import place_of
from loratools.formats import check_options
from loratools.guesses import Reporting
from loratools.io.folder import Place
from loratools.names.meant_for import meant_for
from loratools.parts import Provenance
from loratools.running.progress import Progress
from loratools.running.share import Meter
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


@final
class Found(NamedTuple):
    """Something to inspect: its row, and what there is to open; None if it is known unopened."""

    row: InspectionRow
    adapter: AdapterLike | None


def are_several(name: str | Path) -> bool:
    """Whether a name is that of a folder in which several things may be adapters.

    Raises:
        LoratoolsError: there is no such folder on the Hub, or it cannot be read.
    """
    with path_errors(name, FormatError):
        place = place_of(name)
        return place.file is None and is_collection(place.folder)


def find_each(
    adapters: Iterable[AdapterLike], *, recursive: bool = False, allow_pickle: bool = False
) -> tuple[Found, ...]:
    """Each of these adapters, unopened; and in place of a folder of adapters all that is in it.

    `recursive` and `allow_pickle` are as for `contents`.
    """
    adapters = tuple(adapters)
    found: list[Found] = []
    for adapter in adapters:
        if isinstance(adapter, Adapter):
            found.append(_found(adapter.where, adapter, size=adapter.nbytes))
            continue
        try:
            with path_errors(adapter, FormatError):
                place = place_of(adapter)
                items = _items(place, recursive=recursive, allow_pickle=allow_pickle)
        except LoratoolsError as error:
            found.append(_found(str(adapter), None, error=error))
        else:
            found += _at(place, items, is_alone=len(adapters) == 1)
    return tuple(found)


def _items(place: Place, *, recursive: bool, allow_pickle: bool) -> tuple[Item, ...]:
    """What there is at a place; `.` is what is named itself."""
    folder = place.folder
    if place.file is not None:
        is_there = place.file in folder.names()
        other = other_by_name(place.file, allow_pickle=allow_pickle) if is_there else None
        return (Item(".", other),)
    if recursive or is_collection(folder):
        return contents(folder, recursive=recursive, allow_pickle=allow_pickle)
    return (whole_at(folder, ".") or Item("."),)


def _at(place: Place, items: Iterable[Item], *, is_alone: bool) -> Iterator[Found]:
    """What was found at a place, with names in its folder if no other one was named."""
    for name, other in items:
        path = place.where
        if name != ".":
            path = f"{path}/{name}" if place.folder.path is None else str(Path(path, name))
        yield _found(
            path,
            path if other is None else None,
            name=name if is_alone and name != "." else path,
            other=other,
            size=_size(path),
        )


def _found(
    path: str,
    adapter: AdapterLike | None,
    *,
    name: str | None = None,
    other: Other | None = None,
    error: LoratoolsError | None = None,
    size: int | None = None,
) -> Found:
    return Found(InspectionRow(path, name or path, None, other, error, size), adapter)


def _size(path: str) -> int | None:
    """The size of a file on this disk; None of anything else."""
    file = Path(path)
    return file.stat().st_size if file.is_file() else None


def inspect_each(
    found: Sequence[Found], inspecting: Inspecting, progress: Progress = None
) -> Iterator[InspectionRow]:
    """The rows of what was found, one after another, each with its description or its error.

    `progress` is called with the number of those that are described, and of all.

    Raises:
        LoratoolsError: the base cannot be read, or an option has a value that it cannot have.
    """
    check_options(inspecting.dialect_options or {})
    _ = inspecting.opened_base  # an error of the base is none of an adapter
    meter = Meter(progress, len(found))
    meter.again()
    for number, (row, adapter) in enumerate(found, 1):
        described = row if adapter is None else _inspected(row, adapter, inspecting, meter)
        meter.reach(Fraction(number, len(found)))
        yield described
    meter.end()


def _inspected(
    row: InspectionRow, adapter: AdapterLike, inspecting: Inspecting, meter: Meter
) -> InspectionRow:
    try:
        found = inspecting.describe(adapter, progress=lambda done, total: meter.again())
    except NotAnAdapterError as error:
        other = Other(error.what, error.what, has_weights=True)
        return replace(row, other=other, error=error)
    except LoratoolsError as error:
        return replace(row, error=error)
    return replace(row, inspection=found, nbytes=found.adapter.nbytes)
