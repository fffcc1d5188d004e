"""The parts of a canonical adapter: what it does to a weight, and what its files say of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Never, Self, TypeVar, final

from loratools.deltas import Delta, check_stored
from loratools.errors import FormatError, counted, listing
from loratools.io.source import Source
from loratools.io.values import same_bytes
from loratools.showing.shown import Brief

#: `info` explains; `problem` makes `inspect --check` fail; `refusal` also makes other verbs fail.
Severity = Literal["info", "problem", "refusal"]


@final
@dataclass(frozen=True)
class Note:
    """Something a person should know about an adapter.

    `trap` is the name of the trap in `loratools.traps` that the note is about, if it is about one.
    `file` is the config that the note is about, if it is about what one says; an error begins with
    it.
    """

    severity: Severity
    message: str
    trap: str | None = None
    file: str | None = None


def stated_in(file: str | None, notes: Iterable[Note]) -> tuple[Note, ...]:
    """Notes on what the config in `file` says; None where it is in no file of its own."""
    return tuple(replace(note, file=file) for note in notes)


@final
@dataclass(frozen=True)
class Update:
    """An update of the parameter that a target names.

    `fan_in_fan_out` is None where the base stores the weight in the orientation of `delta`, as it
    does every convolution and embedding. Otherwise the base may also store the weight transposed,
    as GPT-2's `Conv1D` does: a dialect says False for the matrix of a linear layer, or True where
    its config claims that the weight is stored as (fan_in, out). The weight's shape decides, and
    for a square weight the base's model type, or else this field.

    `is_shared` is whether an update of an embedding was trained on the head too where the base ties
    the two, as in MLX. PEFT's acts on the embedding alone.
    """

    delta: Delta
    fan_in_fan_out: bool | None = None
    is_embedding: bool = False
    is_shared: bool = False


_Part = TypeVar("_Part")


@final
class ByTarget(dict[str, _Part]):
    """Parts of an adapter by the names of their targets, which can be read but not changed."""

    @classmethod
    def of(cls, parts: Mapping[str, _Part]) -> Self:
        """The parts in a mapping, which is copied unless it cannot be changed either."""
        return parts if isinstance(parts, cls) else cls(parts)

    def __repr__(self) -> str:
        """One line: how many there are, and the names of the first targets."""
        return f"<{counted(len(self), 'part')}{': ' if self else ''}{listing(self, limit=2)}>"

    def __reduce__(self) -> tuple[object, ...]:
        return ByTarget, (dict(self),)

    def _refuse(self, *_: object, **__: object) -> Never:
        raise TypeError(
            "an adapter cannot be changed; verbs such as loratools.rescale make others of it"
        )

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


@final
@dataclass(frozen=True)
class ReplacedRows:
    """New rows for a matrix: row `indices[i]` of the matrix becomes `rows[i]`."""

    indices: tuple[int, ...]
    rows: Source

    def __post_init__(self) -> None:
        """Check that the rows are floats."""
        check_stored(self.rows)


@final
@dataclass(frozen=True)
class Replacement:
    """A whole tensor that replaces one of the base's, in any shape.

    If `is_trained`, the tensor is a part of the adapter. Else it is a weight of the model that the
    adapter was trained on, such as an embedding with rows for new tokens.
    """

    source: Source
    is_trained: bool


@final
@dataclass(frozen=True)
class Copy:
    """A stored tensor, `source`, that repeats another tensor of the same file, `of`."""

    source: Source
    of: Source

    def check(self, where: str) -> None:
        """Read both tensors, and check that they are the same.

        Raises:
            FormatError: they are not.
        """
        if not same_bytes(self.source, self.of):
            raise FormatError(
                f"{where}: {self.source.keys[0]} and {self.of.keys[0]} should be the same and are "
                f"not",
                tensor=self.source.keys[0],
            )


@final
@dataclass(frozen=True)
class Provenance:
    """The origin of an adapter, as its files state it; None where they state nothing.

    Attributes:
        base: the name or path of the base model.
        family: the architecture of the base, as kohya's trainer names it.
        revision: the revision of the base on the Hub.
        task: PEFT's task type.
        trainer: the program that wrote the adapter, with its version.
        base_hash: the SHA-256 of the base's file, as kohya's trainer stores it.
    """

    base: str | None = None
    family: str | None = None
    revision: str | None = None
    task: str | None = None
    trainer: str | None = None
    base_hash: str | None = None


@final
@dataclass(frozen=True)
class Announced:
    """The parts that an adapter announces as trained, if only a base shows whether one is missing.

    Attributes:
        biases: whether all biases were trained, or only those of modules with updates; None for
            neither.
        modules: names of modules, or suffixes of names, for which no updates are stored.
        saved: suffixes of the names of modules that are stored whole.
        rows: modules with the same trained rows as another one; they are stored once if the base
            ties the two.
        ties_ends: whether embedding and head were trained as one, if the base ties them.
        heads: suffixes of the names that a head for the task may have, if the model has one.
        file: the config that announces them, if it is in a file of its own.
    """

    biases: Literal["all", "lora_only"] | None = None
    modules: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    ties_ends: bool = False
    heads: tuple[str, ...] = ()
    file: str | None = None


@final
@dataclass(frozen=True, repr=False)
class Filed(Brief):
    """What a dialect keeps of the files that it read, to write them again unchanged.

    It does not affect what the adapter does. Without it, an adapter can be written in any dialect
    that can store everything in it.

    Attributes:
        dialect: the name of the dialect that the adapter was read in.
        config: the fields of the config, as they were read.
        metadata: the metadata of the safetensors file.
        settings: entries of the config or the metadata for people to see: rank, target modules, …
        order: the keys of the tensors in file order, where the dialect keeps that order.
        passengers: tensors of the file that are no part of the adapter, as embeddings of textual
            inversion are, by key. The adapter lists them among those without effect.
    """

    dialect: str
    config: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    passengers: Mapping[str, Source] = field(default_factory=dict)
