"""Open an adapter or a base by its name: a path, or `hf://owner/name` on the Hub."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypedDict

from loratools.adapter import Adapter
from loratools.arguments import checked
from loratools.errors import FormatError, OptionError, UnsupportedError, listing, path_errors
from loratools.files.beside import of_adapter
from loratools.files.checkpoints import checkpoint_at
from loratools.files.decoded import decoded
from loratools.files.finding import (
    adapter_files,
    base_files,
    config_among,
    find_weights,
    is_archive,
    is_pickle,
    own_names,
    tensor_files,
    weights_beside,
)
from loratools.files.manifest import (
    MANIFEST,
    overlay_files,
    refuse_overlay,
    refuse_part_of_overlay,
)
from loratools.files.overlays import lay_over
from loratools.files.place import layers_of, place_of
from loratools.files.saving import save
from loratools.formats import adapter_configs, check_options, no_adapter
from loratools.io.bundle import Bundle
from loratools.io.checkpoint import Checkpoint
from loratools.io.collector import collector_paused
from loratools.io.companions import Companion
from loratools.io.file import InputFile
from loratools.io.folder import Folder, Place, name_in, read_json, read_json_in
from loratools.io.index import is_index, read_index
from loratools.io.missing import refuse_missing
from loratools.io.pickles import read_pickle, refuse_no_pickle
from loratools.io.sniffed import other_config
from loratools.io.source import Source, stored_tensors
from loratools.io.streaming import stream
from loratools.parts import Note
from loratools.typed import flag, valued, worded

MODEL_CONFIG = "config.json"

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
        notes = (*adapter.notes, *_another_config(folder, config))
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


def companions_in(folder: Folder) -> tuple[Companion, ...]:
    """The tokenizer and processor files in an adapter's folder; none if it is not on this disk.

    Raises:
        StorageError: a subfolder cannot be read.
    """
    if folder.path is None:
        return ()
    return tuple(Companion(folder.path, n) for n in of_adapter(own_names(folder)))


def _fetched_files(folder: Folder, file: str) -> list[str]:
    """The names of the files to download for an adapter on the Hub."""
    described = [MODEL_CONFIG] if _describes_model(folder) else []
    return [*adapter_files(folder, file), *described]


def read_bundle(folder: Folder, file: str, where: str, config: str | Path | None = None) -> Bundle:
    """The content of an adapter's files: `file` in a folder, and what is beside it."""
    config_file, fields = _read_config(folder, config)
    tensors, metadata, size = _read_tensors(folder, file)
    return Bundle(
        where=where,
        tensors=tensors,
        metadata=metadata,
        config=fields,
        companions=companions_in(folder),
        nbytes=size,
        model_config=_read_model_config(folder),
        config_file=config_file,
    )


def _read_config(
    folder: Folder, config: str | Path | None
) -> tuple[str, Mapping[str, Any]] | tuple[None, None]:
    """The name of the config's file in messages, and its fields; None twice without a config."""
    if config is not None:
        with path_errors(config, FormatError):
            _refuse_missing_config(folder, config)
        return _config(InputFile(Path(config)), str(config))
    names = [name for name in adapter_configs() if name in folder.names()]
    if len(names) > 1:
        raise FormatError(
            f"{folder.where}: has configs of several formats ({listing(names)})",
            hint=f"name the one to use with {valued('config')}",
        )
    if not names:
        return None, None
    return _config(folder.open(names[0]), name_in(folder, names[0]))


def _another_config(folder: Folder, config: str | Path | None) -> Iterator[Note]:
    """A note if the config that was named is read in place of one that the adapter has.

    Of several adapters that are read with one config, it may be meant for another.
    """
    own = config_among(folder.names())
    if config is None or own is None:
        return
    if folder.path is None or not Path(config).samefile(folder.path / own):
        yield Note("info", f"{config} is read in place of the {own} beside it")


def _refuse_missing_config(folder: Folder, config: str | Path) -> None:
    """Refuse a config that is not there; the adapter's folder may have one of that name."""
    try:
        refuse_missing(config)
    except FormatError as error:
        name = Path(config).name
        if name not in folder.names():
            raise
        hint = f"did you mean {name_in(folder, name)}?"
        raise FormatError(error.complaint, file=config, hint=hint) from None


def _config(file: InputFile, where: str) -> tuple[str, Mapping[str, Any]]:
    fields = read_json(file, where)
    if (other := other_config(fields)) is not None:
        raise FormatError(
            f"{where}: not the config of an adapter but {other}",
            file=where,
            hint=f"name its {' or '.join(adapter_configs())} with {valued('config')}",
        )
    return where, fields


def _read_model_config(folder: Folder) -> Mapping[str, Any] | None:
    """The `config.json` beside an adapter's config; one without the latter may be unrelated."""
    if folder.path is None or not _describes_model(folder):
        return None
    return read_json_in(folder, MODEL_CONFIG)


def _describes_model(folder: Folder) -> bool:
    """Whether a folder has both an adapter's config and a model's."""
    names = folder.names()
    return config_among(names) is not None and MODEL_CONFIG in names


def _read_tensors(folder: Folder, name: str) -> tuple[Mapping[str, Source], Mapping[str, str], int]:
    """The tensors of an adapter's file, or of all files in its index; their metadata and size."""
    if not is_index(name):
        tensor_files(folder, name)  # refuses a part of an adapter
        return _read_file(folder, name)
    index = read_index(folder, name)
    tensors: dict[str, Source] = {}
    metadata: dict[str, str] = {}
    size = 0
    for shard in index.shards:
        found, entries, nbytes = _read_file(folder, shard)
        index.check(shard, found)
        if differing := [key for key in entries if metadata.get(key, entries[key]) != entries[key]]:
            raise FormatError(
                f"{folder.where}/{shard}: its metadata and that of other parts differ in "
                f"{listing(differing)}"
            )
        tensors |= found
        metadata |= entries
        size += nbytes
    index.check_whole(n for n in folder.names() if is_pickle(n) == is_pickle(name))
    return tensors, metadata, size


def _read_file(folder: Folder, name: str) -> tuple[Mapping[str, Source], Mapping[str, str], int]:
    if is_pickle(name):
        assert folder.path is not None, name  # with `allow_pickle`, `open_adapter` downloads files
        file = folder.path / name
        return read_pickle(file, no_adapter), {}, file.stat().st_size
    opened = folder.open(name)
    if is_archive(name):
        from loratools.io.npz import read_npz

        return read_npz(opened), {}, opened.size
    header = opened.read_header()
    refuse_part_of_overlay(header.metadata, opened.where)
    return stored_tensors(opened, header), header.metadata, opened.size


def _refused_pickle(where: str) -> UnsupportedError:
    return UnsupportedError(
        f"{where}: a pickle, which can run code when it is read",
        hint=f"{flag('allow_pickle')} reads it with torch's restricted unpickler",
    )
