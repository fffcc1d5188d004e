"""Open a base model: find its weight files, and read their headers, its index and its config."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from loratools.errors import FormatError, UnsupportedError, listing, path_errors
from loratools.files.manifest import MANIFEST, refuse_overlay, refuse_part_of_overlay
from loratools.files.swapped import refuse_half_swapped
from loratools.formats import is_adapter_file
from loratools.io.checkpoint import INDEX_SUFFIX, Checkpoint, Shard
from loratools.io.file import InputFile
from loratools.io.folder import Folder, Place, place_here, read_json
from loratools.io.index import read_index, refuse_part
from loratools.io.source import stored_tensors

_GGUF = (
    "a GGUF file; merge into the safetensors model that it was made from, then convert the result"
)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path of this disk; errors as for `checkpoint_at`."""
    with path_errors(path, FormatError):
        return checkpoint_at(place_here(path))


def checkpoint_at(place: Place) -> Checkpoint:
    """The checkpoint in a folder; or the one in the file, or of the index, that the place names.

    Raises:
        FormatError: a file is malformed, a shard is missing, index and shards disagree, or a swap
            was interrupted and has left a mixture of weights.
        UnsupportedError: the weights are in a format that cannot be merged into.
        StorageError: a file cannot be read.
    """
    found = checkpoint_as_stored(place)
    refuse_half_swapped(found)
    return found


def checkpoint_as_stored(place: Place) -> Checkpoint:
    """As `checkpoint_at`; but a model that is half swapped is opened as well."""
    folder, file = place.folder, place.file
    with path_errors(place.where, FormatError):
        if file is None:
            return _open_folder(folder, _find_index(folder))
        if folder.path is not None and not (folder.path / file).exists():
            raise FormatError(f"{place.where}: no such file or folder")
        if file.endswith(INDEX_SUFFIX):
            return _open_folder(folder, file)
        if file == MANIFEST:
            refuse_overlay(folder, "a base model")
        refuse_part(folder, file)
        return _open_file(folder.open(file), place.where)


def _open_folder(folder: Folder, index: str | None) -> Checkpoint:
    names = folder.names()
    if index is not None:
        listed = read_index(folder, index)
        _refuse_adapter(folder, listed.shards)
        index_metadata = listed.metadata
        shards = tuple(_open_shard(folder.open(name)) for name in listed.shards)
        for shard in shards:
            listed.check(shard.name, (tensor.name for tensor in shard.tensors))
        listed.check_whole(name for name in names if name.endswith(".safetensors"))
    else:
        index_metadata = {}
        shards = (_open_shard(folder.open(_find_single(folder))),)
    config = read_json(folder.open("config.json")) if "config.json" in names else None
    return Checkpoint(folder.where, folder.path, True, shards, index, index_metadata, config)


def _open_file(file: InputFile, where: str) -> Checkpoint:
    if file.size >= 4 and file.read(0, 4) == b"GGUF":
        raise UnsupportedError(f"{where}: {_GGUF}")
    _refuse_pickle(file.path.name, where)
    return Checkpoint(where, file.path, False, (_open_shard(file),), None, {}, None)


def _open_shard(file: InputFile) -> Shard:
    header = file.read_header()
    refuse_part_of_overlay(header.metadata, file.where)
    return Shard(file, tuple(stored_tensors(file, header).values()), header.metadata)


def weight_files(folder: Folder) -> tuple[str, ...]:
    """The names of a base's weight files and of their index; errors as for `checkpoint_at`."""
    index = _find_index(folder)
    if index is None:
        return (_find_single(folder),)
    return (index, *read_index(folder, index).shards)


def _find_index(folder: Folder) -> str | None:
    refuse_overlay(folder, "a base model")
    names = folder.names()
    found = [n for n in names if n.endswith(INDEX_SUFFIX) and not is_adapter_file(n)]
    if len(found) > 1:
        raise FormatError(
            f"{folder.where}: several indexes ({listing(found)}); name the one to use"
        )
    if found and "model.safetensors" in names:
        raise FormatError(
            f"{folder.where}: has both model.safetensors and {found[0]}, and readers differ in "
            f"which they take; name the one to use"
        )
    return found[0] if found else None


def _find_single(folder: Folder) -> str:
    names = folder.names()
    found = [n for n in names if n.endswith(".safetensors") and not is_adapter_file(n)]
    if "model.safetensors" in found:
        return "model.safetensors"
    if len(found) == 1:
        return found[0]
    if found:
        raise FormatError(
            f"{folder.where}: several safetensors files and no index ({listing(found)}); "
            f"name the one to use"
        )
    _refuse_other_weights(folder, names)
    raise FormatError(f"{folder.where}: no safetensors file in this folder")


def _refuse_other_weights(folder: Folder, names: Sequence[str]) -> None:
    _refuse_adapter(folder, names)
    for name in names:
        where = f"{folder.where}/{name}"
        if name.endswith(".gguf"):
            raise UnsupportedError(f"{where}: {_GGUF}")
        _refuse_pickle(name, where)


def _refuse_pickle(name: str, where: str) -> None:
    if name.endswith((".bin", ".pt", ".pth", ".ckpt")):
        raise UnsupportedError(
            f"{where}: a pickle, which can run code when it is read; "
            f"save the base model as safetensors first"
        )


def _refuse_adapter(folder: Folder, names: Iterable[str]) -> None:
    if any(is_adapter_file(name) for name in names if name.endswith(".safetensors")):
        raise UnsupportedError(f"{folder.where}: an adapter, where a base model is expected")
