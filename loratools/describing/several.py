"""Describes several adapters, one after another: those of a list, and those in folders."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, final

from loratools.adapter import Adapter
from loratools.describing.describe import Inspecting
from loratools.describing.rows import InspectionRow
from loratools.errors import FormatError, LoratoolsError, NotAnAdapterError
from loratools.files.collection import Item, Other, contents, is_collection, other_by_name, whole_at
from loratools.files.opening import AdapterLike
from loratools.files.place import place_of
from loratools.formats import check_options
from loratools.io.failures import path_errors
from loratools.io.folder import Place
from loratools.running.progress import Progress
from loratools.running.share import Meter


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
