"""The canonical adapter: which weights it changes, and which it replaces; and what its file said.

Every dialect on disk is decoded into this, and every verb works on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from loratools.deltas import Delta, check_stored
from loratools.errors import UnsupportedError, listing
from loratools.io.companions import Companion
from loratools.io.source import Source

#: `info` explains, `problem` makes `inspect --check` fail, `refusal` is one by all other verbs too.
Severity = Literal["info", "problem", "refusal"]


@final
@dataclass(frozen=True)
class Note:
    """Something a person should know about an adapter."""

    severity: Severity
    message: str


@final
@dataclass(frozen=True)
class Update:
    """A change to the weight that a target names.

    `fan_in_fan_out` is None where the file fixes the orientation of the weight. Otherwise the
    weight may also be stored transposed, which its shape decides; for a square one it is what the
    adapter's config says.
    """

    delta: Delta
    fan_in_fan_out: bool | None = None
    is_embedding: bool = False


@final
@dataclass(frozen=True)
class ReplacedRows:
    """New rows for a matrix: row `indices[i]` becomes `rows[i]`."""

    indices: tuple[int, ...]
    rows: Source

    def __post_init__(self) -> None:
        """Check that they are floats, as the rows of a weight are."""
        check_stored(self.rows)


@final
@dataclass(frozen=True)
class Replacement:
    """A whole tensor that takes the place of the base's, in any shape.

    `trained` ones are part of the adapter; the others are weights that the base itself had while
    it was trained on: an embedding with rows for new tokens.
    """

    source: Source
    is_trained: bool


@final
@dataclass(frozen=True)
class Copy:
    """A stored tensor that repeats another one of the same file."""

    source: Source
    of: Source


@final
@dataclass(frozen=True)
class Provenance:
    """What an adapter says about its own origin; None where it says nothing.

    `family` is the kind of model that the base is of, and `base_hash` the SHA-256 of its file, both
    as kohya's trainer notes them.
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
    """What an adapter says was trained, where only the base shows whether some of it is missing.

    Attributes:
        biases: of the whole model, or only beside the weights that are updated.
        modules: modules by name, or by the end of it, whose weights have no updates.
        saved: ends of the names of modules that are stored whole.
        rows: modules whose rows are those of another one, stored once if the two are tied.
        ties_ends: whether embedding and head were trained as one, if the base ties them.
        heads: ends of the names under which a head was trained for the task, if the model has it.
    """

    biases: Literal["all", "lora_only"] | None = None
    modules: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    ties_ends: bool = False
    heads: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Filed:
    """What a dialect wants back of the files it has read, to write them again unchanged.

    What the adapter does is known without it. Without it, an adapter can be written in any dialect
    that has a place for all that is in it.

    Attributes:
        dialect: the name of the dialect.
        config: the JSON beside the tensors as it was read.
        metadata: that of the file of tensors.
        settings: what config or metadata say that matters to people: rank, target modules, …
        order: the keys of the tensors as they were filed, where the dialect keeps that order.
    """

    dialect: str
    config: Mapping[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    order: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Adapter:
    """An adapter, by target: the full name of a parameter, as its trainer saw it.

    Attributes:
        where: its file or folder, for messages.
        updates: changes to weights, in file order.
        replaced: whole tensors that take the place of the base's, or that the base lacks.
        copies: stored tensors that repeat another one, to be checked before they are trusted.
        rows: rows of a matrix that take the place of the base's.
        inert: stored tensors that change no weight, each with the reason.
        model_config: the `config.json` beside it, which describes the model it was trained on.
        companions: its tokenizer and its processor, unread.
        announced: what else its config says was trained.
        beside: files of weights in its folder that are none of its own.
        renamed: those of its notes that say under which other names its tensors are read.
        filed: what its dialect wants back to write it unchanged; None if it is not from a file, or
            is to be written from all of the above alone.
    """

    where: str
    updates: Mapping[str, Update]
    replaced: Mapping[str, Replacement]
    rows: Mapping[str, ReplacedRows]
    copies: tuple[Copy, ...]
    inert: Mapping[str, str]
    provenance: Provenance
    notes: tuple[Note, ...]
    companions: tuple[Companion, ...]
    nbytes: int
    model_config: Mapping[str, Any] | None = None
    announced: Announced = Announced()
    beside: tuple[str, ...] = ()
    renamed: tuple[Note, ...] = ()
    filed: Filed | None = None

    @property
    def notes_beside(self) -> tuple[Note, ...]:
        """A note on weights that were trained with it, as far as their names tell."""
        if not self.beside:
            return ()
        text = f"other weights are in its folder, and are not applied: {listing(self.beside)}"
        return (Note("problem", text),)

    @property
    def remarks(self) -> tuple[Note, ...]:
        """What a verb says that makes an adapter of this one: new names, and what is wrong."""
        problems = (note for note in self.notes if note.severity == "problem")
        return (*self.renamed, *problems, *self.notes_beside)

    def check_usable(self) -> None:
        """Whether its updates are what its tensors say.

        Raises:
            UnsupportedError: a note says why not.
        """
        for note in self.notes:
            if note.severity == "refusal":
                raise UnsupportedError(f"{self.where}: {note.message}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its updates, in order of appearance."""
        return tuple(dict.fromkeys(update.delta.kind for update in self.updates.values()))
