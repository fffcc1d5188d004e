"""A base model on disk: a file, or a folder with one file or with shards and their index.

Opening reads only names, shapes, dtypes and byte ranges; tensors, or rows of them, are read later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loratools.errors import FormatError, shorten
from loratools.io.companions import Companion
from loratools.io.file import InputFile
from loratools.io.source import Stored

INDEX_SUFFIX = ".safetensors.index.json"


@final
@dataclass(frozen=True)
class Shard:
    """One safetensors file of a checkpoint: its tensors in the order of their bytes.

    With an overlay on the checkpoint, some of the tensors are in files of the overlay.
    """

    file: InputFile
    tensors: tuple[Stored, ...]
    metadata: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the shard's file."""
        return self.file.path.name


@final
@dataclass(frozen=True)
class Overlay:
    """A folder whose tensors and companions have taken the place of those of a checkpoint.

    `path` is None for one that is elsewhere, whose `companions` are then not listed.
    """

    where: str
    path: Path | None
    files: tuple[InputFile, ...]
    companions: tuple[Companion, ...]


@final
@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model by name, in file order, and its `config.json` if it has one.

    `where` names the model in messages and reports; `path` is its path on this disk, None for a
    model that is elsewhere. `is_folder` tells whether it was named by its folder, where it may
    have companions, or by a single file. `overlays` have been laid over it, in this order.
    """

    where: str
    path: Path | None
    is_folder: bool
    shards: tuple[Shard, ...]
    index_name: str | None
    index_metadata: Mapping[str, Any]
    config: Mapping[str, Any] | None
    overlays: tuple[Overlay, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a tensor's name that occurs in two files."""
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
        """All tensors by name, in file order."""
        tensors: Mapping[str, Stored] = self.__dict__["_tensors"]
        return tensors

    @property
    def files(self) -> tuple[InputFile, ...]:
        """All files that the tensors are read from, and those that say which they are."""
        overlaid = (file for overlay in self.overlays for file in overlay.files)
        return (*(shard.file for shard in self.shards), *overlaid)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths on this disk that an output must not overwrite."""
        folders = (self.path, *(overlay.path for overlay in self.overlays))
        return (*filter(None, folders), *(file.path for file in self.files))
