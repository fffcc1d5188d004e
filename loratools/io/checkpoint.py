"""A base model on disk: a file, or a folder with one file or with shards and their index.

Only names, shapes, dtypes and byte ranges are read; tensors, or rows of them, on demand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loratools.errors import FormatError, shorten
from loratools.io.file import InputFile
from loratools.io.source import Stored

INDEX_SUFFIX = ".safetensors.index.json"


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
    """The tensors of a model by name, in file order, and its `config.json` if it has one.

    `where` is what messages and reports call it; `path` is where it lies on this disk, None for
    one that is elsewhere. A model that was named by its folder has companions there.
    """

    where: str
    path: Path | None
    is_folder: bool
    shards: tuple[Shard, ...]
    index_name: str | None
    index_metadata: Mapping[str, Any]
    config: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        """Refuse a name that two files hold."""
        tensors: dict[str, Stored] = {}
        for shard in self.shards:
            for tensor in shard.tensors:
                name = tensor.name
                if name in tensors:
                    raise FormatError(
                        f"{self.where}: {shorten(name)} is in {tensors[name].file.path.name} "
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
    def nbytes(self) -> int:
        """The size of all its weight files."""
        return sum(shard.file.size for shard in self.shards)
