"""Open a base model: find its weight files, and read their headers, its index and its config."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from loratools.errors import FormatError, UnsupportedError, listing
from loratools.files.contents import instead_of_base
from loratools.files.manifest import MANIFEST, refuse_overlay, refuse_part_of_overlay
from loratools.files.pipelines import MODEL_INDEX, find_pipeline, is_pipeline
from loratools.files.swapped import notes_on_swapped, refuse_half_swapped
from loratools.files.variants import (
    PLAIN,
    choose,
    no_such_variant,
    only_file,
    parts_alone,
    variants,
)
from loratools.formats import is_adapter_file
from loratools.io.checkpoint import INDEX_SUFFIX, Checkpoint, Component, Shard, inside
from loratools.io.failures import path_errors
from loratools.io.file import InputFile
from loratools.io.folder import Folder, Place, name_in, place_here, read_json_in
from loratools.io.index import is_index, read_index, refuse_part, shard_parts
from loratools.io.pickles import refuse_no_pickle
from loratools.io.source import stored_tensors
from loratools.typed import as_typed, base_first

_GGUF = (
    "a GGUF file; merge into the safetensors model that it was made from, then convert the result"
)
#: Tensors that only adapters have; a model with LoRA layers inside has others beside them.
_OF_ADAPTER = re.compile(r"(^|[._])lora_|\.lora[._]|\.alpha$|\.dora_scale$|\.(hada|lokr)_w|\.oft_")


def open_checkpoint(path: Path, variant: str | None = None) -> Checkpoint:
    """The checkpoint at a path of this disk; errors as for `checkpoint_at`."""
    with path_errors(path, FormatError):
        return checkpoint_at(place_here(path), variant)


def checkpoint_at(place: Place, variant: str | None = None) -> Checkpoint:
    """The checkpoint in a folder; or the one in the file, or of the index, that the place names.

    Of a folder with several variants of its weights, `variant` is the one to open.

    Raises:
        FormatError: a file is malformed, a shard is missing, index and shards disagree, several
            files may be meant, or a swap was interrupted and has left a mixture of weights.
        UnsupportedError: the weights are in a format that cannot be merged into.
        StorageError: a file cannot be read.
    """
    found = checkpoint_as_stored(place, variant)
    refuse_half_swapped(found)
    return replace(found, notes=(*found.notes, *notes_on_swapped(found)))


def checkpoint_as_stored(place: Place, variant: str | None = None) -> Checkpoint:
    """As `checkpoint_at`; but a model that is half swapped is opened as well."""
    folder, file = place.folder, place.file
    with path_errors(place.where, FormatError):
        if file is None:
            return _open_folder(folder, variant)
        if file == MODEL_INDEX:
            return _open_folder(folder, variant)
        if variant is not None:
            raise FormatError(
                f"{place.where}: a file, and {as_typed('variant')} chooses among those of a folder"
            )
        if is_index(file) and ".safetensors." in file:
            component = _open_component(folder, file)
            return Checkpoint(folder.where, folder.path, True, (component,))
        if file == MANIFEST:
            refuse_overlay(folder, "a base model")
        refuse_part(folder, file)
        return _open_file(folder.open(file), place.where)


def _open_folder(folder: Folder, variant: str | None) -> Checkpoint:
    if not is_pipeline(folder):
        component = _open_component(folder, _find(folder, variant))
        return Checkpoint(folder.where, folder.path, True, (component,))
    refuse_overlay(folder, "a base model")
    found = find_pipeline(folder, variant)
    components = [
        _open_component(folder.subfolder(name), file, name) for name, file in found.weights.items()
    ]
    return Checkpoint(
        folder.where,
        folder.path,
        True,
        tuple(components),
        lacking=found.lacking,
        unread=found.unread,
        notes=found.notes,
    )


def _open_component(folder: Folder, file: str, name: str = "") -> Component:
    """The model in a folder, in one file or those of an index; `name` is its own in a pipeline."""
    names = folder.names()
    index = file if is_index(file) else None
    if index is not None:
        listed = read_index(folder, index)
        _refuse_adapter(folder, listed.shards)
        opened = {n: _open_shard(folder.open(n), name) for n in listed.shards}
        for shard_name, shard in opened.items():
            held = (tensor.name.removeprefix(shard.prefix) for tensor in shard.tensors)
            listed.check(shard_name, held)
        listed.check_whole(n for n in names if n.endswith(".safetensors"))
        shards, metadata = tuple(opened.values()), listed.metadata
    else:
        shards, metadata = (_open_shard(folder.open(file), name),), {}
    config = read_json_in(folder, "config.json") if "config.json" in names else None
    config_file = None if config is None else name_in(folder, "config.json")
    return Component(shards, index and inside(name, index), metadata, config, config_file)


def _open_file(file: InputFile, where: str) -> Checkpoint:
    if file.size >= 4 and file.read(0, 4) == b"GGUF":
        raise UnsupportedError(f"{where}: {_GGUF}")
    if _is_pickle(file.path.name):
        _refuse_pickle(file, where)
    shard = _open_shard(file)
    if shard.tensors and all(_OF_ADAPTER.search(tensor.name) for tensor in shard.tensors):
        raise _not_a_base(where)
    return Checkpoint(where, file.path, False, (Component((shard,)),))


def _open_shard(file: InputFile, component: str = "") -> Shard:
    header = file.read_header()
    refuse_part_of_overlay(header.metadata, file.where)
    shard = Shard(file, tuple(stored_tensors(file, header).values()), header.metadata, component)
    if not component:
        return shard
    names = (f"{shard.prefix}{tensor.name}" for tensor in shard.tensors)
    tensors = (t._replace(name=name) for t, name in zip(shard.tensors, names, strict=True))
    return replace(shard, tensors=tuple(tensors))


def weight_files(folder: Folder, variant: str | None = None) -> tuple[str, ...]:
    """The paths of a base's weight files and of their indexes; errors as for `checkpoint_at`."""
    if not is_pipeline(folder):
        return _files_of(folder, _find(folder, variant))
    refuse_overlay(folder, "a base model")
    return tuple(
        inside(name, file)
        for name, found in find_pipeline(folder, variant).weights.items()
        for file in _files_of(folder.subfolder(name), found)
    )


def _files_of(folder: Folder, file: str) -> tuple[str, ...]:
    """A weight file alone, or an index and the files in it."""
    return (file, *read_index(folder, file).shards) if is_index(file) else (file,)


def _find(folder: Folder, variant: str | None) -> str:
    """The name of the weight file in the folder of one model, or of the index of its files."""
    refuse_overlay(folder, "a base model")
    found = variants(folder.names())
    # Of a model of transformers the files without a variant's name are meant, if there are any.
    is_diffusers = any(name.startswith("diffusion_") for group in found.values() for name in group)
    if variant is not None or is_diffusers or (found and PLAIN not in found):
        if variant is not None and variant not in found:
            raise no_such_variant(folder.where, variant, found)
        return only_file(folder, found[choose(found, variant, folder.where)])
    return _find_index(folder) or _find_single(folder)


def _find_index(folder: Folder) -> str | None:
    names = folder.names()
    found = [n for n in names if n.endswith(INDEX_SUFFIX) and not is_adapter_file(n)]
    if len(found) > 1:
        raise FormatError(
            f"{folder.where}: several indexes ({listing(found)})", hint="name the one to use"
        )
    if found and "model.safetensors" in names:
        raise FormatError(
            f"{folder.where}: has both model.safetensors and {found[0]}, and readers differ in "
            f"which they take",
            hint="name the one to use",
        )
    return found[0] if found else None


def _find_single(folder: Folder) -> str:
    names = folder.names()
    found = [n for n in names if n.endswith(".safetensors") and not is_adapter_file(n)]
    if "model.safetensors" in found:
        return "model.safetensors"
    if len(found) == 1:
        return found[0]
    if found and all(shard_parts(name) for name in found):
        raise parts_alone(folder.where, found)
    if found:
        raise FormatError(
            f"{folder.where}: several safetensors files and no index ({listing(found)})",
            hint="name the one to use",
        )
    _refuse_other_weights(folder, names)
    raise FormatError(
        f"{folder.where}: no safetensors file in this folder", hint=f"{instead_of_base(folder)}"
    )


def _refuse_other_weights(folder: Folder, names: Sequence[str]) -> None:
    _refuse_adapter(folder, names)
    for name in names:
        where = f"{folder.where}/{name}"
        if name.endswith(".gguf"):
            raise UnsupportedError(f"{where}: {_GGUF}")
        if _is_pickle(name):
            _refuse_pickle(None if folder.path is None else folder.open(name), where)


def _is_pickle(name: str) -> bool:
    return name.endswith((".bin", ".pt", ".pth", ".ckpt"))


def _refuse_pickle(file: InputFile | None, where: str) -> NoReturn:
    """Refuse a pickle; a file on this disk that only has the name of one, for what it is."""
    if file is not None:
        refuse_no_pickle(file)
    raise UnsupportedError(
        f"{where}: a pickle, which can run code when it is read",
        hint="save the base model as safetensors first",
    )


def _refuse_adapter(folder: Folder, names: Iterable[str]) -> None:
    if any(is_adapter_file(name) for name in names if name.endswith(".safetensors")):
        raise _not_a_base(folder.where)


def _not_a_base(where: str) -> UnsupportedError:
    return UnsupportedError(
        f"{where}: an adapter, where a base model is expected", hint=base_first(where)
    )
