"""From a name to an adapter or a base: a path, or `hf://owner/name` on the Hub."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from loratools.adapter import Adapter
from loratools.errors import FormatError, UnsupportedError, listing, path_errors
from loratools.files.finding import (
    find_weights,
    is_pickle,
    own_names,
    tensor_files,
    weights_beside,
)
from loratools.formats import DecodeOptions, decode
from loratools.hub.names import HubName, is_hub_name
from loratools.io.bundle import Bundle
from loratools.io.checkpoint import Checkpoint, open_checkpoint, open_folder
from loratools.io.collector import collector_paused
from loratools.io.companions import ADAPTER_CONFIG, Companion, of_adapter
from loratools.io.file import InputFile
from loratools.io.folder import Folder, LocalFolder, read_json
from loratools.io.index import is_index, read_index
from loratools.io.source import Source, Stored

if TYPE_CHECKING:
    from loratools.hub.folder import HubFolder

MODEL_CONFIG = "config.json"


def open_adapter(
    path: str | Path,
    *,
    config: str | Path | None = None,
    allow_pickle: bool = False,
    options: DecodeOptions | None = None,
    headers: bool = False,
) -> Adapter:
    """The adapter in a folder or file, or by a name on the Hub; tensors are read when needed.

    One that is spread over several files is read by their index, which may be named in place of
    the folder. `config` names its `adapter_config.json` where that is not beside it. A PyTorch
    pickle is read only with `allow_pickle`, and never because a safetensors file is missing or
    broken. With `headers`, what is on the Hub is not fetched: a tensor that is needed is read from
    there.

    Raises:
        FormatError: a file is missing or malformed.
        UnsupportedError: the kind is not supported, or it is a pickle and that is not allowed.
        HubError, NetworkError: it cannot be had from the Hub.
        StorageError: a file cannot be read.
    """
    with path_errors(path, FormatError), collector_paused():
        place = _place(path, headers=headers and not allow_pickle, allow_pickle=allow_pickle)
        adapter = decode(_read_bundle(place, config, allow_pickle=allow_pickle), options)
        return replace(adapter, beside=place.beside)


def open_base(path: str | Path, *, companions: bool = False, headers: bool = False) -> Checkpoint:
    """The base model in a folder or file, or by a name on the Hub.

    Of the Hub its weights are fetched, and with `companions` the files that belong to them; with
    `headers` neither, and a tensor that is needed is read from there.

    Raises:
        FormatError: a file is missing or malformed.
        UnsupportedError: the weights are in a format that cannot be merged into.
        HubError, NetworkError: it cannot be had from the Hub.
        StorageError: a file cannot be read.
    """
    if not is_hub_name(path):
        return open_checkpoint(Path(path))
    folder, file = _hub_place(path)
    if headers:
        if file is not None:
            raise UnsupportedError(f"{folder.where}/{file}: name the folder of a base on the Hub")
        return open_folder(folder)
    from loratools.hub.folder import base_files

    local = folder.fetch(base_files(folder, file, companions=companions))
    return open_checkpoint(local.path / (file or ""), folder.where)


def adapter_files(folder: Folder, file: str | None = None) -> list[str]:
    """The names of the files in a folder that an adapter is read from.

    Raises:
        FormatError: it has none, or it is not clear which.
    """
    file = file or find_weights(folder)
    wanted = {file, *tensor_files(folder, file), ADAPTER_CONFIG}
    names = own_names(folder)
    return sorted({*wanted.intersection(names), *of_adapter(names)})


def companions_in(folder: Folder) -> tuple[Companion, ...]:
    """What goes with an adapter of this folder: tokenizer and processor; none of one elsewhere.

    Raises:
        StorageError: a folder in it cannot be read.
    """
    if folder.path is None:
        return ()
    return tuple(Companion(folder.path, n) for n in of_adapter(own_names(folder)))


def local_paths(*names: str | Path | None) -> list[Path]:
    """Those of the names that are paths: what an output must not overwrite.

    An index stands for its folder, where the files are that it names.
    """
    paths = [Path(name) for name in names if name is not None and not is_hub_name(name)]
    return [path.parent if is_index(path.name) else path for path in paths]


@final
@dataclass(frozen=True)
class _Place:
    """Where an adapter is: a folder, the name of its file in it, and what messages call it."""

    folder: Folder
    file: str
    where: str
    beside: tuple[str, ...] = ()


def _place(path: str | Path, *, headers: bool, allow_pickle: bool) -> _Place:
    if not is_hub_name(path):
        path = Path(path)
        if not path.is_dir():
            parent = LocalFolder(path.parent, str(path.parent))
            beside = weights_beside(parent, path.name, is_named=True)
            return _Place(parent, path.name, str(path), beside)
        local = LocalFolder(path, str(path))
        file = find_weights(local)
        return _Place(local, file, str(path), weights_beside(local, file, is_named=False))
    folder, named = _hub_place(path)
    file = named or find_weights(folder)
    if is_pickle(file) and not allow_pickle:
        raise _refused_pickle(f"{folder.where}/{file}")
    where = f"{folder.where}/{file}" if named else folder.where
    beside = weights_beside(folder, file, is_named=named is not None)
    if headers:
        return _Place(folder, file, where, beside)
    described = {ADAPTER_CONFIG, MODEL_CONFIG}.issubset(folder.names())
    wanted = [*adapter_files(folder, file), *([MODEL_CONFIG] if described else [])]
    return _Place(folder.fetch(wanted), file, where, beside)


def _hub_place(name: str | Path) -> "tuple[HubFolder, str | None]":
    found = HubName.parse(name)  # before the client is imported, which may fail
    from loratools.hub.folder import hub_place

    return hub_place(found)


def _read_bundle(place: _Place, config: str | Path | None, *, allow_pickle: bool) -> Bundle:
    folder = place.folder
    fields = _read_config(folder, config)
    tensors, metadata, size = _read_tensors(folder, place.file, allow_pickle=allow_pickle)
    return Bundle(
        where=place.where,
        tensors=tensors,
        metadata=metadata,
        config=fields,
        companions=companions_in(folder),
        nbytes=size,
        model_config=_read_model_config(folder),
    )


def _read_config(folder: Folder, config: str | Path | None) -> Mapping[str, Any] | None:
    if config is not None:
        return read_json(InputFile(Path(config)))
    return read_json(folder.open(ADAPTER_CONFIG)) if ADAPTER_CONFIG in folder.names() else None


def _read_model_config(folder: Folder) -> Mapping[str, Any] | None:
    """The `config.json` of an adapter's folder; one beside a single file may be anybody's."""
    if folder.path is None or not {ADAPTER_CONFIG, MODEL_CONFIG}.issubset(folder.names()):
        return None
    return read_json(folder.open(MODEL_CONFIG))


def _read_tensors(
    folder: Folder, name: str, *, allow_pickle: bool
) -> tuple[dict[str, Source], Mapping[str, str], int]:
    """The tensors of an adapter's file, or of all files of its index; their metadata and size."""
    if not is_index(name):
        tensor_files(folder, name)  # refuses a part of an adapter
        return _read_file(folder, name, allow_pickle=allow_pickle)
    index = read_index(folder, name)
    tensors: dict[str, Source] = {}
    metadata: dict[str, str] = {}
    size = 0
    for shard in index.shards:
        found, entries, nbytes = _read_file(folder, shard, allow_pickle=allow_pickle)
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


def _read_file(
    folder: Folder, name: str, *, allow_pickle: bool
) -> tuple[dict[str, Source], Mapping[str, str], int]:
    if is_pickle(name):
        if not allow_pickle or folder.path is None:
            raise _refused_pickle(f"{folder.path or folder.where}/{name}")
        from loratools.io.pickles import read_pickle

        file = folder.path / name
        return read_pickle(file), {}, file.stat().st_size
    opened = folder.open(name)
    header = opened.read_header()
    tensors: dict[str, Source] = {t.name: Stored(opened, t) for t in header.tensors}
    return tensors, header.metadata, opened.size


def _refused_pickle(where: str) -> UnsupportedError:
    return UnsupportedError(
        f"{where}: a pickle, which can run code when it is read; --allow-pickle reads it with "
        f"torch's restricted unpickler"
    )
