"""The content of an adapter's files: of one file of tensors, and of the configs beside it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loratools.errors import FormatError, listing
from loratools.files.beside import of_adapter
from loratools.files.finding import (
    config_among,
    is_archive,
    is_pickle,
    own_names,
    tensor_files,
)
from loratools.files.manifest import refuse_part_of_overlay
from loratools.formats import adapter_configs, no_adapter
from loratools.io.bundle import Bundle
from loratools.io.companions import Companion
from loratools.io.failures import path_errors
from loratools.io.file import InputFile
from loratools.io.folder import Folder, name_in, read_json, read_json_in
from loratools.io.index import is_index, read_index
from loratools.io.missing import refuse_missing
from loratools.io.pickles import read_pickle
from loratools.io.sniffed import other_config
from loratools.io.source import Source, stored_tensors
from loratools.parts import Note
from loratools.typed import valued

MODEL_CONFIG = "config.json"


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


def companions_in(folder: Folder) -> tuple[Companion, ...]:
    """The tokenizer and processor files in an adapter's folder; none if it is not on this disk.

    Raises:
        StorageError: a subfolder cannot be read.
    """
    if folder.path is None:
        return ()
    return tuple(Companion(folder.path, n) for n in of_adapter(own_names(folder)))


def describes_model(folder: Folder) -> bool:
    """Whether a folder has both an adapter's config and a model's."""
    names = folder.names()
    return config_among(names) is not None and MODEL_CONFIG in names


def _read_config(
    folder: Folder, config: str | Path | None
) -> tuple[str, Mapping[str, Any]] | tuple[None, None]:
    """The name of the config's file in messages, and its fields; None twice without a config."""
    if config is not None:
        with path_errors(config, FormatError):
            _refuse_missing_config(folder, config)
        return _config(InputFile(Path(config)), str(config))
    names = _configs_in(folder)
    if len(names) > 1:
        raise FormatError(
            f"{folder.where}: has configs of several formats ({listing(names)})",
            hint=f"name the one to use with {valued('config')}",
        )
    if not names:
        return None, None
    return _config(folder.open(names[0]), name_in(folder, names[0]))


def another_config(folder: Folder, config: str | Path | None) -> Iterator[Note]:
    """A note if the config that was named is read in place of one that the adapter has.

    Of several adapters that are read with one config, it may be meant for another.
    """
    own = _configs_in(folder)
    if config is None or not own:
        return
    if folder.path is None or not any(Path(config).samefile(folder.path / name) for name in own):
        yield Note("info", f"{config} is read in place of the {listing(own)} beside it")


def _configs_in(folder: Folder) -> list[str]:
    names = folder.names()
    return [name for name in adapter_configs() if name in names]


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
    if folder.path is None or not describes_model(folder):
        return None
    return read_json_in(folder, MODEL_CONFIG)


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
