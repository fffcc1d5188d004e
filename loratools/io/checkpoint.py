"""A base model on disk: a file, or a folder with one file or with shards and their index.

Only names, shapes, dtypes and byte ranges are read; tensors, or rows of them, on demand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, final

from loratools.errors import FormatError, UnsupportedError, listing, shorten, storage_errors
from loratools.io.file import InputFile
from loratools.io.json import parse_json_object
from loratools.io.source import Stored

INDEX_SUFFIX = ".safetensors.index.json"
_MAX_JSON_BYTES = 100_000_000


@final
@dataclass(frozen=True)
class Shard:
    """One safetensors file of a checkpoint: its tensors in the order of their bytes."""

    file: InputFile
    tensors: tuple[Stored, ...]
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file.path.name


@final
@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model by name, in file order, and its `config.json` if it has one."""

    path: Path
    shards: tuple[Shard, ...]
    index_name: str | None
    index_metadata: Mapping[str, Any]
    config: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        """Refuse a name that two files hold."""
        tensors: dict[str, Stored] = {}
        for shard in self.shards:
            for tensor in shard.tensors:
                name = tensor.info.name
                if name in tensors:
                    raise FormatError(
                        f"{self.path}: {shorten(name)} is in {tensors[name].file.path.name} "
                        f"and in {shard.name}; a tensor may be in one file only"
                    )
                tensors[name] = tensor
        object.__setattr__(self, "_tensors", tensors)

    @property
    def tensors(self) -> Mapping[str, Stored]:
        """Every tensor by its name."""
        tensors: Mapping[str, Stored] = self.__dict__["_tensors"]
        return tensors

    @property
    def is_folder(self) -> bool:
        """Whether it was named by its folder, so that companions belong to it."""
        return self.path.is_dir()

    @property
    def nbytes(self) -> int:
        """The size of all its weight files."""
        return sum(shard.file.size for shard in self.shards)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`.

    Raises:
        FormatError: a file is malformed, a shard is missing, or index and shards disagree.
        UnsupportedError: the weights are in a format that cannot be merged into.
        StorageError: a file cannot be read.
    """
    with storage_errors(path):
        return _open(path)


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder")
    if path.name.endswith(INDEX_SUFFIX):
        return _open_folder(path.parent, index=path)
    file = InputFile(path)
    if file.size >= 4 and file.read(0, 4) == b"GGUF":
        raise UnsupportedError(
            f"{path}: a GGUF file; merge into the safetensors model that it was made from, "
            f"then convert the result"
        )
    _refuse_pickle(path)
    return Checkpoint(path, (_open_shard(file),), None, {}, None)


def read_json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FormatError: it is not a JSON object.
        StorageError: it cannot be read.
    """
    file = InputFile(path)
    if file.size > _MAX_JSON_BYTES:
        raise FormatError(f"{path}: {file.size} bytes are too many for a JSON file")
    return parse_json_object(file.read(0, file.size), str(path))


def _open_folder(folder: Path, index: Path | None = None) -> Checkpoint:
    index = index or _find_index(folder)
    if index is not None:
        names, index_metadata = _read_index(index)
        shards = tuple(_open_shard(InputFile(folder / name)) for name in names)
        _check_index(index, names, shards)
    else:
        index_metadata = {}
        shards = (_open_shard(InputFile(_find_single(folder))),)
    config_path = folder / "config.json"
    config = read_json_file(config_path) if config_path.exists() else None
    return Checkpoint(folder, shards, index.name if index else None, index_metadata, config)


def _open_shard(file: InputFile) -> Shard:
    header = file.read_header()
    return Shard(file, tuple(Stored(file, info) for info in header.tensors), header.metadata)


def _find_index(folder: Path) -> Path | None:
    found = sorted(path for path in folder.iterdir() if path.name.endswith(INDEX_SUFFIX))
    if len(found) > 1:
        raise FormatError(
            f"{folder}: several indexes ({listing(path.name for path in found)}); "
            f"name the one to use"
        )
    if found and (folder / "model.safetensors").exists():
        raise FormatError(
            f"{folder}: has both model.safetensors and {found[0].name}, and readers differ in "
            f"which they take; name the one to use"
        )
    return found[0] if found else None


def _find_single(folder: Path) -> Path:
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix == ".safetensors" and path.name != "adapter_model.safetensors"
    )
    preferred = folder / "model.safetensors"
    if preferred in found:
        return preferred
    if len(found) == 1:
        return found[0]
    if found:
        raise FormatError(
            f"{folder}: several safetensors files and no index "
            f"({listing(path.name for path in found)}); name the one to use"
        )
    _refuse_other_weights(folder)
    raise FormatError(f"{folder}: no safetensors file in this folder")


def _refuse_other_weights(folder: Path) -> None:
    if (folder / "adapter_model.safetensors").exists():
        raise UnsupportedError(f"{folder}: an adapter, where a base model is expected")
    for path in sorted(folder.iterdir()):
        if path.suffix == ".gguf":
            raise UnsupportedError(
                f"{path}: a GGUF file; merge into the safetensors model that it was made from, "
                f"then convert the result"
            )
        _refuse_pickle(path)


def _refuse_pickle(path: Path) -> None:
    if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}:
        raise UnsupportedError(
            f"{path}: a pickle, which can run code when it is read; "
            f"save the base model as safetensors first"
        )


def _read_index(index: Path) -> tuple[dict[str, list[str]], Mapping[str, Any]]:
    """Shard names in order of first appearance, each with its tensors; and the metadata."""
    fields = read_json_file(index)
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index}: has no weight_map")
    shards: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        shards.setdefault(_checked_shard_name(index, shard), []).append(tensor)
    metadata = fields.get("metadata")
    return dict(sorted(shards.items())), metadata if isinstance(metadata, dict) else {}


def _checked_shard_name(index: Path, name: object) -> str:
    """`name` if it is a plain file name on POSIX and on Windows."""
    if (
        not isinstance(name, str)
        or not name.endswith(".safetensors")
        or PureWindowsPath(name).name != name
        or ":" in name
        or not name.isprintable()
    ):
        raise FormatError(f"{index}: {name!r:.120} is not the plain name of a safetensors file")
    return name


def _check_index(index: Path, expected: Mapping[str, list[str]], shards: tuple[Shard, ...]) -> None:
    for shard, names in zip(shards, expected.values(), strict=True):
        held = {tensor.info.name for tensor in shard.tensors}
        missing = [name for name in names if name not in held]
        if missing:
            raise FormatError(
                f"{index}: says that {shard.name} holds {listing(missing)}; it does not"
            )
        listed = set(names)
        extra = [t.info.name for t in shard.tensors if t.info.name not in listed]
        if extra:
            raise FormatError(f"{index}: does not list {listing(extra)}, which {shard.name} holds")
