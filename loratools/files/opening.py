"""Open an adapter or a base by its name: a path, or `hf://owner/name` on the Hub."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, TypedDict

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.errors import FormatError, OptionError, UnsupportedError
from loratools.files.bundles import MODEL_CONFIG, another_config, describes_model, read_bundle
from loratools.files.checkpoints import checkpoint_at
from loratools.files.decoded import decoded
from loratools.files.finding import (
    adapter_files,
    base_files,
    find_weights,
    is_pickle,
    weights_beside,
)
from loratools.files.manifest import MANIFEST, overlay_files, refuse_overlay
from loratools.files.overlays import lay_over
from loratools.files.place import layers_of, place_of
from loratools.files.saving import save
from loratools.formats import check_options
from loratools.io.checkpoint import Checkpoint
from loratools.io.collector import collector_paused
from loratools.io.failures import path_errors
from loratools.io.file import InputFile
from loratools.io.folder import Folder, Place, name_in
from loratools.io.index import is_index
from loratools.io.pickles import refuse_no_pickle
from loratools.io.streaming import stream
from loratools.typed import flag, worded

#: What a verb takes as an adapter: a path, a name on the Hub, or an adapter that is open.
AdapterLike = str | Path | Adapter


class Reading(TypedDict, total=False):
    """The keyword arguments that say how an adapter is read."""

    config: str | Path | None
    allow_pickle: bool
    dialect_options: Mapping[str, str] | None


@checked
def open_adapter(
    path: str | Path,
    *,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    headers: bool = False,
) -> Adapter:
    """The adapter in a folder or file, or by a name on the Hub; tensors are read when needed.

    An adapter that is spread over several files is read by their index, which may be named in
    place of the folder.

    Args:
        path: a folder, a file, or a name on the Hub (`hf://owner/name`).
        config: the `adapter_config.json` of an adapter that has none beside it.
        allow_pickle: read PyTorch's `.bin`, `.pt` and `.pth` files too, without running code that
            is in them; never because a safetensors file is missing or broken.
        dialect_options: options of the adapter's format, by name: `{"out_proj": "once"}`; options
            of other formats are ignored.
        headers: do not download files on the Hub (unless `allow_pickle` is set too): tensors that
            are needed are read from there.

    Example:
        >>> import loratools
        >>> adapter = loratools.open_adapter("fixtures/adapters/plain")
        >>> adapter
        <Adapter fixtures/adapters/plain: LoRA, 35 targets>
        >>> adapter["layers.0.self_attn.q_proj"].update().shape
        torch.Size([64, 64])

    Raises:
        FormatError: a file is missing or malformed.
        OptionError: no format takes such an option, or not with this value.
        UnsupportedError: the kind is not supported, or the file is a pickle and none is allowed.
        HubError, NetworkError: the adapter cannot be fetched from the Hub.
        StorageError: a file cannot be read.
    """
    check_options(dialect_options or {})
    with path_errors(path, FormatError), collector_paused():
        place = place_of(path)
        if place.file == MANIFEST:
            refuse_overlay(place.folder, "an adapter")
        folder, file = place.folder, place.file or find_weights(place.folder)
        beside = weights_beside(folder, file, is_named=place.file is not None)
        if is_pickle(file) and not allow_pickle:
            if folder.path is not None and not is_index(file):
                refuse_no_pickle(folder.open(file))
            raise _refused_pickle(name_in(folder, file))
        if allow_pickle or not headers:
            folder = folder.here(partial(_fetched_files, file=file))
        bundle = read_bundle(folder, file, place.where, config)
        adapter = decoded(bundle, dialect_options, beside=beside)
        notes = (*adapter.notes, *another_config(folder, config))
        return replace(adapter, notes=notes, saver=save)


def opened_adapter(
    adapter: AdapterLike,
    *,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    dialect_options: Mapping[str, str] | None = None,
    headers: bool = False,
) -> Adapter:
    """The adapter itself if it is open already, or else the one that is opened by its name.

    Raises:
        OptionError: options say how to read an adapter that is open already.
        LoratoolsError: see `open_adapter`.
    """
    if not isinstance(adapter, Adapter):
        return open_adapter(
            adapter,
            config=config,
            allow_pickle=allow_pickle,
            dialect_options=dialect_options,
            headers=headers,
        )
    if config is not None or dialect_options:
        raise OptionError(
            f"{adapter.where}: is open already",
            hint="give config and dialect_options to open_adapter",
        )
    return adapter


def open_base(
    path: str | Path,
    *,
    companions: bool = False,
    headers: bool = False,
    variant: str | None = None,
) -> Checkpoint:
    """The base model in a folder or file, or by a name on the Hub; `BASE+DIR` has an overlay on it.

    From the Hub its weights are downloaded and, with `companions`, the files that belong to them;
    with `headers` neither is, and tensors that are needed are read from there. `variant` is the one
    to open where a folder has several variants of its weights.

    Raises:
        FormatError: a file is missing or malformed, or several may be meant.
        MatchError: an overlay was made for another base.
        UnsupportedError: the weights are in a format that cannot be merged into; or, with
            `headers`, a file on the Hub is named and not its folder.
        HubError, NetworkError: the base cannot be fetched from the Hub.
        StorageError: a file cannot be read.
    """
    name, *overlays = layers_of(path)
    found = _open_alone(name, companions=companions, headers=headers, variant=variant)
    for overlay in overlays:
        with path_errors(overlay, FormatError):
            place = place_of(overlay)
            if place.file is not None:
                _refuse_file_as_overlay(place, place.file)
            folder = place.folder if headers else place.folder.here(overlay_files)
            found = lay_over(found, folder, headers=headers)
    if not headers:
        stream(found.files)
    return found


def _open_alone(
    path: str | Path, *, companions: bool, headers: bool, variant: str | None
) -> Checkpoint:
    """The base model of one name, without any overlay."""
    with path_errors(path, FormatError):
        place = place_of(path)
        if not headers:
            wanted = partial(base_files, file=place.file, companions=companions, variant=variant)
            place = replace(place, folder=place.folder.here(wanted))
        elif place.file is not None and place.folder.path is None:
            raise UnsupportedError(f"{place.where}: name the folder of a base on the Hub")
        return checkpoint_at(place, variant)


def _refuse_file_as_overlay(place: Place, name: str) -> NoReturn:
    path = place.folder.path and place.folder.path / name
    known = None if path is None else InputFile(path).sniffed()
    what = known.name if known else "a file"
    made_by = worded("merge --only-changed", flag("only_changed"))
    raise FormatError(
        f"{place.where}: not a folder, which an overlay is, but {what}",
        hint=known.advice if known else f"name the folder that {made_by} has written",
    )


def _fetched_files(folder: Folder, file: str) -> list[str]:
    """The names of the files to download for an adapter on the Hub."""
    described = [MODEL_CONFIG] if describes_model(folder) else []
    return [*adapter_files(folder, file), *described]


def _refused_pickle(where: str) -> UnsupportedError:
    return UnsupportedError(
        f"{where}: a pickle, which can run code when it is read",
        hint=f"{flag('allow_pickle')} reads it with torch's restricted unpickler",
    )
