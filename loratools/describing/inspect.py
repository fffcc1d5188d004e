"""`inspect` as a function: opens an adapter's files, and a base's, and describes the adapter."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict, Unpack, overload

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.describing.describe import Inspecting
from loratools.describing.description import Inspection
from loratools.describing.rows import Inspections
from loratools.describing.several import are_several, find_each, inspect_each
from loratools.errors import FormatError, OptionError
from loratools.files.opening import AdapterLike
from loratools.running.progress import Progress, shows_progress


class _Arguments(TypedDict, total=False):
    """What is the same for one adapter and for several."""

    base: str | Path | None
    spectrum: bool
    blocks: bool
    allow_pickle: bool
    dialect_options: Mapping[str, str] | None
    variant: str | None
    progress: Progress


def _unit(adapter: object = None, *_positional: object, **_settings: object) -> str:
    return "targets" if isinstance(adapter, str | Path | Adapter) else "adapters"


# A string is an iterable of strings too, and so is an adapter: each is one, which comes first.
@overload
def inspect(  # type: ignore[overload-overlap]
    adapter: AdapterLike,
    *,
    config: str | Path | None = None,
    **arguments: Unpack[_Arguments],
) -> Inspection: ...
@overload
def inspect(
    adapter: Iterable[AdapterLike], *, recursive: bool = False, **arguments: Unpack[_Arguments]
) -> Inspections: ...
@shows_progress(_unit)
@checked
def inspect(
    adapter: AdapterLike | Iterable[AdapterLike],
    *,
    base: str | Path | None = None,
    spectrum: bool = False,
    blocks: bool = False,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    variant: str | None = None,
    progress: Progress = None,
    recursive: bool = False,
) -> Inspection | Inspections:
    """Describe an adapter, or several, by their headers; with `spectrum` or `blocks`, by values.

    Of a list, each adapter is described, and each in a folder of adapters. What cannot be read, or
    is no adapter, is a row of the result that says so, and no error. `is_sound` of the result says
    whether nothing is wrong.

    Args:
        adapter: a path, a name on the Hub (`hf://owner/name`) or an opened adapter; or a list of
            them, in which a path may be that of a folder of adapters.
        base: see whether the adapter fits this model, and what it changes there.
        spectrum: measure every update: its norm, its largest singular value, and its effective
            rank; with a base, its norm relative to that of its weight.
        blocks: measure how much of the update is in each block of the model.
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them.
        dialect_options: options of the adapter's format, by name: `{"out_proj": "once"}`.
        variant: read the weights of a model from its files `model.NAME.safetensors`, such as
            `"fp16"`; `"none"`: from those without a name.
        progress: called with the work that is done, in targets, and the number of all targets,
            while values are measured; for a list, with the number of adapters that are described,
            and of all. True shows a bar on stderr. What it raises stops the inspection.
        recursive: look into folders at any depth; for a list.

    Example:
        >>> import loratools
        >>> found = loratools.inspect("fixtures/adapters/plain")
        >>> found.parameters
        46240
        >>> found.is_sound
        True

    Raises:
        OptionError: an option has a value that it cannot have; `config` is given with a list, or
            `recursive` without one.
        LoratoolsError: the one adapter, or the base, is malformed or of a kind that is not
            supported.
    """
    inspecting = Inspecting(base, variant, spectrum, blocks, allow_pickle, dialect_options)
    if isinstance(adapter, str | Path | Adapter):
        if recursive:
            raise OptionError("recursive is for a list: inspect([folder], recursive=True)")
        return _inspect_one(adapter, inspecting, config, progress)
    if config is not None:
        raise OptionError("config is that of one adapter, and not of a list")
    found = find_each(adapter, recursive=recursive, allow_pickle=allow_pickle)
    return Inspections(tuple(inspect_each(found, inspecting, progress)))


def _inspect_one(
    adapter: AdapterLike, inspecting: Inspecting, config: str | Path | None, progress: Progress
) -> Inspection:
    try:
        return inspecting.describe(adapter, config, progress=progress)
    except FormatError as error:
        if isinstance(adapter, Adapter) or not are_several(adapter):
            raise
        hint = f"inspect([{str(adapter)!r}]) describes each"
        raise FormatError(error.complaint, file=error.file, hint=hint) from error
