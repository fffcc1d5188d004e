"""A base model on disk: a file, a folder with one file or with shards and their index, a pipeline.

Opening reads only names, shapes, dtypes and byte ranges; tensors, or rows of them, are read later.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from loratools.errors import FormatError, MatchError, shorten
from loratools.io.companions import Companion
from loratools.io.file import InputFile
from loratools.io.source import Stored
from loratools.typed import one_of

INDEX_SUFFIX = ".safetensors.index.json"


@final
@dataclass(frozen=True)
class Shard:
    """One safetensors file of a checkpoint: its tensors in the order of their bytes.

    `folder` is the name of the component's folder, for a file of a pipeline: its tensors' names
    begin with `prefix`, which their names in the file lack. With an overlay on the checkpoint, some
    of the tensors are in files of the overlay.
    """

    file: InputFile
    tensors: tuple[Stored, ...]
    metadata: Mapping[str, str]
    folder: str = ""

    @property
    def name(self) -> str:
        """The path of the shard's file in the checkpoint's folder."""
        return inside(self.folder, self.file.path.name)

    @property
    def prefix(self) -> str:
        """What precedes the names in the file: the component's name and a dot; empty for none."""
        return f"{self.folder}." if self.folder else ""


@final
@dataclass(frozen=True)
class Component:
    """The weight files of one model: of a component of a pipeline, or of a whole checkpoint.

    `index_name` is the path of their index in the checkpoint's folder, None without one. `config`
    is the content of the `config.json` beside them, and `config_file` the name of that file.
    """

    shards: tuple[Shard, ...]
    index_name: str | None = None
    index_metadata: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    config_file: str | None = None

    @property
    def folder(self) -> str:
        """The name of its folder in the pipeline; empty for a model that is not in one."""
        return self.shards[0].folder

    @property
    def prefix(self) -> str:
        """What precedes its tensors' names in the files; see `Shard`."""
        return self.shards[0].prefix


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
    """The tensors of a model by name, in file order, in one component or in those of a pipeline.

    Attributes:
        where: the model's name in messages and reports.
        path: its path on this disk; None for a model that is elsewhere.
        is_folder: whether it was named by its folder, where it may have companions, or by a file.
        components: those of a pipeline that have weights; of any other model, itself alone.
        overlays: what has been laid over it, in this order.
        lacking: the components of a pipeline whose weights cannot be read, with the reasons.
        unread: the paths of weight files that are copied as they are, since they cannot be read.
        notes: remarks for the user on which of its files were taken.
    """

    where: str
    path: Path | None
    is_folder: bool
    components: tuple[Component, ...]
    overlays: tuple[Overlay, ...] = ()
    lacking: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a tensor's name that occurs in two files."""
        tensors: dict[str, Stored] = {}
        for shard in self.shards:
            for tensor in shard.tensors:
                name = tensor.name
                if name in tensors:
                    raise FormatError(
                        f"{self.where}: {shorten(name)} is in {tensors[name].file.path.name} "
                        f"and in {shard.name}, and a tensor may be in one file only",
                        tensor=name,
                    )
                tensors[name] = tensor
        object.__setattr__(self, "_tensors", tensors)

    @property
    def tensors(self) -> Mapping[str, Stored]:
        """All tensors by name, in file order."""
        tensors: Mapping[str, Stored] = self.__dict__["_tensors"]
        return tensors

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All files of weights, component by component."""
        return tuple(shard for component in self.components for shard in component.shards)

    @property
    def is_pipeline(self) -> bool:
        """Whether the names of its tensors begin with those of components."""
        return bool(self.components[0].folder)

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The `config.json` of a model; None without one, and for a pipeline, which has several."""
        return None if self.is_pipeline else self.components[0].config

    @property
    def lacks(self) -> str:
        """The end of a message that a tensor was not found: the components that cannot be read."""
        found = (f"{name} ({reason})" for name, reason in self.lacking.items())
        return f" (not read: {', '.join(found)})" if self.lacking else ""

    def component_of(self, name: str) -> Component:
        """The component that a new tensor of this name belongs to.

        Raises:
            MatchError: the name begins with that of no component of the pipeline.
        """
        for component in self.components:
            if name.startswith(component.prefix):
                return component
        raise MatchError(
            f"{self.where}: {shorten(name)} would be new, and begins with no component of the "
            f"pipeline that has weights",
            tensor=name,
            hint=f"leave it out with {one_of('skip', name)}",
        )

    def with_shards(self, change: Callable[[Shard], Shard]) -> "Checkpoint":
        """The same model with each shard replaced by what `change` makes of it."""
        components = (replace(c, shards=tuple(map(change, c.shards))) for c in self.components)
        return replace(self, components=tuple(components))

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


def inside(folder: str, name: str) -> str:
    """The path of a file in a component's folder; its name, if `folder` is empty."""
    return f"{folder}/{name}" if folder else name
