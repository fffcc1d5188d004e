"""`inspect` as a function: opens an adapter's files, and a base's, and describes the adapter."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import overload

from loratools.describing.describe import Inspecting
from loratools.describing.description import Inspection
from loratools.describing.several import Inspections, are_several, inspect_each, rows_of
from loratools.errors import FormatError, OptionError


# A string is an iterable of strings too; it is one path, which the first signature says.
@overload
def inspect(  # type: ignore[overload-overlap]
    adapter: str | Path,
    *,
    base: str | Path | None = None,
    spectrum: bool = False,
    blocks: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    variant: str | None = None,
) -> Inspection: ...
@overload
def inspect(
    adapter: Iterable[str | Path],
    *,
    base: str | Path | None = None,
    spectrum: bool = False,
    blocks: bool = False,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    variant: str | None = None,
    recursive: bool = False,
) -> Inspections: ...
def inspect(
    adapter: str | Path | Iterable[str | Path],
    *,
    base: str | Path | None = None,
    spectrum: bool = False,
    blocks: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    variant: str | None = None,
    recursive: bool = False,
) -> Inspection | Inspections:
    """Describe an adapter by its headers; with `spectrum` or `blocks`, by its values too.

    `spectrum` measures every update, and `blocks` how much of them is in each block of the model.
    With a `base`, the description says which of its weights the adapter changes, and whether the
    two can be merged. With both, it has the size of each update, or of each block's, relative to
    its weights, which are read for that. `variant` is that of the base's weights, where its folder
    has several.

    Of a list, each adapter is described, and each in a folder of adapters; `recursive` looks into
    the subfolders of subfolders too. What cannot be read, or is no adapter, is a row of the result
    that says so, and no error.

    Raises:
        OptionError: an option has a value that it cannot have; `config` is given with a list, or
            `recursive` without one.
        LoratoolsError: the one adapter, or the base, is malformed or of a kind that is not
            supported.
    """
    inspecting = Inspecting(base, variant, spectrum, blocks, allow_pickle, dialect_options)
    if isinstance(adapter, str | Path):
        if recursive:
            raise OptionError("recursive is for a list: inspect([folder], recursive=True)")
        return _inspect_one(adapter, inspecting, config)
    if config is not None:
        raise OptionError("config is that of one adapter, and not of a list")
    rows = rows_of(adapter, recursive=recursive, allow_pickle=allow_pickle)
    return Inspections(tuple(inspect_each(rows, inspecting)))


def _inspect_one(name: str | Path, inspecting: Inspecting, config: str | Path | None) -> Inspection:
    try:
        return inspecting.describe(name, config)
    except FormatError as error:
        if not are_several(name):
            raise
        raise FormatError(f"{error}; inspect([{str(name)!r}]) describes each") from error
