"""The table of several adapters: a row each, and beneath it what is wrong and what else is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final, get_args

import click

from loratools.cli.failures import CHECK_FAILED, printable
from loratools.cli.progress import progress_bar
from loratools.cli.tables import shown_lines
from loratools.cli.text import print_faults, print_lines
from loratools.describing.tables import row_table
from loratools.errors import FormatError, StorageError, listing
from loratools.io.json import json_text
from loratools.showing.parts import Part

if TYPE_CHECKING:
    from loratools.describing.describe import Inspecting
    from loratools.describing.rows import InspectionRow, Verdict
    from loratools.describing.several import Found
    from loratools.errors import LoratoolsError

#: Notes that only inform are shown of one adapter alone.
_LABELS = {"problem": "Problem", "refusal": "Refused"}


@final
@dataclass(frozen=True)
class _Line:
    """What is shown of one of several things; it does not keep the adapter in memory.

    Attributes:
        name: its name.
        verdict: the result for it.
        cells: its row of the table, between the name and the verdict; None if it has none.
        kinds: what several like it are called, if it has no row.
        said: labels and messages, which may be those of other adapters too.
        error: why it cannot be read.
    """

    name: str
    verdict: "Verdict"
    cells: tuple[str, ...] | None
    kinds: str
    said: tuple[tuple[str, str], ...]
    error: "LoratoolsError | None"


def inspect_several(
    found: Sequence["Found"], inspecting: "Inspecting", *, check: bool, as_json: bool
) -> int:
    """Inspect and print several things, one in memory at a time; return the exit code.

    Raises:
        FormatError: all is printed, and some of it could not be read.
        StorageError: the same, if a later try may succeed.
    """
    from loratools.describing.several import inspect_each

    lines: list[_Line] = []
    objects: list[dict[str, Any]] = []
    is_sound = True
    with progress_bar("adapters") as progress:
        for row in inspect_each(found, inspecting, progress):
            lines.append(_line_of(row))
            objects += [row.to_json()] if as_json else []
            is_sound = is_sound and row.is_sound
    if as_json:
        click.echo(json_text(objects, indent=2))
    else:
        print_lines(shown_lines(_text(lines, reads_values=check)))
        if check:
            print_faults(_faults(lines))
    _raise_unreadable(lines, check=check)
    return CHECK_FAILED if check and not is_sound else 0


def _raise_unreadable(lines: Sequence[_Line], *, check: bool) -> None:
    failed = {line.name: line.error for line in lines if line.error is not None}
    rows = sum(line.cells is not None for line in lines)
    text = f"{len(failed)} of {rows} cannot be read: {listing(failed)}"
    if any(isinstance(error, StorageError) for error in failed.values()):
        raise StorageError(text)
    if failed and not check:
        raise FormatError(text)


def _line_of(row: "InspectionRow") -> _Line:
    found, other = row.inspection, row.other
    said: list[tuple[str, str]] = []
    if found is not None:
        said = [(_LABELS[n.severity], n.message) for n in found.notes if n.severity in _LABELS]
    elif other is not None and other.advice is not None:
        said = [("Note", other.advice)]
    return _Line(
        row.name,
        row.verdict,
        row.cells if other is None or other.has_weights else None,
        "" if other is None else other.plural,
        tuple(said),
        row.error if other is None else None,
    )


def _text(lines: Sequence[_Line], *, reads_values: bool) -> Iterator[Part]:
    """The table, what was said of its rows, what is beside them, and a summary."""
    shown = [(line, line.cells) for line in lines if line.cells is not None]
    if shown:
        rows = [(line.name, *cells, line.verdict) for line, cells in shown]
        yield row_table(rows)
    yield from _said(lines)
    yield from _unreadable(lines)
    yield from _beside(line for line in lines if line.cells is None)
    yield _summary([line.verdict for line, _ in shown], reads_values=reads_values)


def _faults(lines: Sequence[_Line]) -> Iterator[str]:
    """Why a check of them fails."""
    faulty = [line for line in lines if line.error is None and line.verdict != "no adapter"]
    yield from _said(faulty)
    yield from _unreadable(lines)


def _unreadable(lines: Iterable[_Line]) -> Iterator[str]:
    return (f"Unreadable: {printable(str(line.error))}" for line in lines if line.error)


def _summary(verdicts: Sequence["Verdict"], *, reads_values: bool) -> str:
    """How many rows of the table have each verdict."""
    from loratools.describing.rows import Verdict

    counts = [(verdicts.count(each), each) for each in get_args(Verdict)]
    hint = "" if reads_values else "; only headers and configs were read, --check reads values too"
    return ", ".join(f"{verdict}: {count}" for count, verdict in counts if count) + hint


def _said(lines: Iterable[_Line]) -> Iterator[str]:
    """What was said, each once with the names of all it was said of."""
    names: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        for said in line.said:
            names.setdefault(said, []).append(line.name)
    for (label, message), said_of in names.items():
        yield f"{label}: {printable(f'{listing(said_of)}: {message}')}"


def _beside(lines: Iterable[_Line]) -> Iterator[str]:
    """The files without weights, by what they are."""
    names: dict[str, list[str]] = {}
    for line in lines:
        names.setdefault(line.kinds, []).append(line.name)
    for kinds, files in names.items():
        yield f"Not adapters, {kinds} ({len(files)}): {printable(listing(files))}"
