"""How PEFT stores each kind of update: a codec a kind, found by its file.

A codec is the object `CODEC` of its module. It states the names of a kind's tensors, with what
else they may be stored, and the fields of the config that belong to them; and it goes both ways,
from tensors to a change and back. All else (keys, patterns, targets, ranks and alphas in the
config, what is refused) is the same for all kinds, and is done by this dialect.

What codecs are given are named tuples and not frozen dataclasses, which take ten times as long to
define: every header-only `inspect` imports them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, final

from loratools.adapter import Update
from loratools.deltas import Delta
from loratools.deltas.lora import Scaling
from loratools.errors import UnsupportedError, shorten
from loratools.formats.peft.config import PeftConfig
from loratools.formats.peft.peft_type import PeftType
from loratools.io.source import Source

#: The names of the tensors that are one update together: `("lora_A", "lora_B")`.
Form = tuple[str, ...]
#: By module and by role, the tensors of an adapter. A role is the name of a part of a module's key
#: without the adapter's name and without `.weight`: `lora_A`, `lora_B.bias`.
Modules = Mapping[str, Mapping[str, Source]]
#: Makes the update of a module of its path and its roles, or None where it is not a usual one.
Shortcut = Callable[[str, Mapping[str, Source]], Update | None]


@final
class StoredModule(NamedTuple):
    """The tensors of one module of a file, and where their updates go.

    Attributes:
        where: the file, for messages.
        path: the module's name, which patterns are matched with.
        weight: the target of the module's weight.
        bias: the target of its bias.
        times: how often PEFT applied the update of the weight.
        roles: the module's own tensors.
        modules: those of all modules.
        shared: those of the whole model, which the type calls `shared`.
        inert: keys without effect, and the reason; a codec may add to it.
    """

    where: str
    config: PeftConfig
    path: str
    weight: str
    bias: str
    times: int
    roles: Mapping[str, Source]
    modules: Modules
    shared: Mapping[str, Source]
    inert: dict[str, str]

    @property
    def name(self) -> str:
        """The file and the module, for messages."""
        return f"{self.where}: {shorten(self.path)}"

    @property
    def scaling(self) -> Scaling:
        """The scaling that the config gives to the update of the weight."""
        scaling = self.config.scaling(self.path)
        return scaling if self.times == 1 else replace(scaling, times=self.times)

    def update(self, delta: Delta, *, is_embedding: bool = False) -> Update:
        """A change of the weight, which may be stored transposed where it is a layer's matrix."""
        is_matrix = len(delta.shape) == 2 and not is_embedding
        orientation = self.config.flag("fan_in_fan_out") if is_matrix else None
        return Update(delta, orientation, is_embedding=is_embedding)


@final
class WrittenModule(NamedTuple):
    """A module that gets an update.

    Attributes:
        where: the adapter, for messages.
        path: the module's name, which patterns are matched with.
        key: what the keys of its tensors begin with.
        target: the target of its weight.
        bias: the target of its bias.
        update: the update of the weight.
        updates: those of all targets.
        times: how often PEFT applies the update of the weight.
        rank: the rank that the config has to give it.
        alpha: the alpha that the config has to give it.
    """

    where: str
    path: str
    key: str
    target: str
    bias: str
    update: Update
    updates: Mapping[str, Update]
    times: int
    rank: int
    alpha: float

    @property
    def scaling(self) -> float:
        """What PEFT multiplies its tensors with, each time that it applies them."""
        scaling = self.update.delta.scaling
        return 1.0 if scaling is None else scaling.value / self.times

    def refused(self, reason: str) -> UnsupportedError:
        """The error that PEFT has no place for this update, for a reason."""
        return UnsupportedError(f"{self.where}: {shorten(self.target)}: {reason}")


@final
class Announcement(NamedTuple):
    """The field of a config that says of every module that a part is stored.

    Attributes:
        field: its name.
        role: the part.
        instead: what PEFT takes for the part where it is missing.
        settings: whether the field holds settings, and announces the part by being there at all;
            else it is a flag.
    """

    field: str
    role: str
    instead: str
    settings: bool = False

    def is_set(self, config: PeftConfig) -> bool:
        """Whether the config announces the part, as PEFT takes it."""
        if self.settings:
            return config.fields.get(self.field) is not None
        return config.flag(self.field)

    def write(self, fields: dict[str, Any], *, is_stored: bool) -> None:
        """Make the config say whether the part is stored."""
        if not self.settings:
            fields[self.field] = is_stored
        elif is_stored:
            fields[self.field] = fields.get(self.field) or {}
        elif self.field in fields:
            fields[self.field] = None


class Codec(ABC):
    """What the codecs of kinds, and those of parts beside them, have in common."""

    peft_type: ClassVar[PeftType]
    #: The part that the config announces, and how; None where no field does.
    announced: ClassVar[Announcement | None] = None

    @property
    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """The names of its tensors."""

    @property
    @abstractmethod
    def beside(self) -> tuple[str, ...]:
        """The names of the tensors that the announced one is stored beside."""

    @abstractmethod
    def takes(self, delta: Delta) -> bool:
        """Whether a change is of this kind."""


class KindCodec(Codec):
    """A kind of update to the weight of a module."""

    #: The sets of tensors of which a module has one whole.
    forms: ClassVar[tuple[Form, ...]]

    @property
    @final
    def roles(self) -> tuple[str, ...]:
        """All names in its forms."""
        return tuple(dict.fromkeys(role for form in self.forms for role in form))

    @property
    @final
    def beside(self) -> tuple[str, ...]:
        """All names but that of the announced tensor."""
        return tuple(r for r in self.roles if self.announced is None or r != self.announced.role)

    @abstractmethod
    def decode(self, module: StoredModule) -> Iterator[tuple[str, Update]]:
        """The update of a module that has one of the forms, by target: of the weight at first.

        Raises:
            ShapeMismatchError: the tensors do not fit each other.
            UnsupportedError: they have no counterpart in the shape of a weight.
        """

    @abstractmethod
    def encode(self, module: WrittenModule) -> Iterator[tuple[str, Source]]:
        """The tensors of a module, by what follows its name in their keys: `lora_A.weight`.

        Raises:
            UnsupportedError: PEFT has no place for the update.
        """

    def rank(self, delta: Delta) -> int:
        """The rank that a config gives to the modules of such a change: 1 where there is none."""
        return 1

    def stored_rank(self, module: StoredModule, update: Update) -> int | None:
        """The rank of the tensors of a module, to be compared with the config's; None for any."""
        return self.rank(update.delta)

    def targets(self, module: WrittenModule) -> tuple[str, ...]:
        """The targets that `encode` stores the updates of."""
        return (module.target,)

    def shortcut(self, config: PeftConfig) -> Shortcut | None:
        """A faster `decode` of the form and the shapes that nearly all modules have, if any."""
        return None

    def encode_shared(self, modules: Sequence[WrittenModule]) -> Iterator[tuple[str, Source]]:
        """The tensors of the whole model, by their names in the type's `shared`."""
        yield from ()

    def set_fields(self, fields: dict[str, Any], modules: Sequence[WrittenModule]) -> None:
        """Make a config say what this kind needs, beside its rank, its alpha and `announced`."""


class BesideCodec(Codec):
    """A part that changes another parameter of a module, beside the update of its weight.

    If one module of an adapter has it, all do that have room for it.
    """

    role: ClassVar[str]
    #: The form that has room for it, or is a part of those that have.
    form: ClassVar[Form]

    @property
    @final
    def roles(self) -> tuple[str, ...]:
        """The one name."""
        return (self.role,)

    @property
    @final
    def beside(self) -> tuple[str, ...]:
        """The names in `form`."""
        return self.form

    @abstractmethod
    def decode(self, module: StoredModule, update: Update) -> Iterator[tuple[str, Update]]:
        """The update of the other parameter, if PEFT applies it; `update` is that of the weight."""

    @abstractmethod
    def target(self, module: WrittenModule) -> str | None:
        """The target of the other parameter; None where there is no room for it."""

    @abstractmethod
    def encode(self, module: WrittenModule, update: Update | None) -> Iterator[tuple[str, Source]]:
        """The part of a module with room for it; one without effect if this module has none."""
