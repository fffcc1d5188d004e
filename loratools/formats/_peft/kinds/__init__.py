"""How PEFT stores each kind of update: a module with a codec for each kind.

The codec is the object `CODEC` of the module. It states the names of the kind's tensors, the parts
that may be stored beside them, and the fields of the config that belong to them. It decodes tensors
to updates, and encodes updates to tensors. All else (keys, patterns, targets, ranks and alphas in
the config, refusals) is the same for all kinds, and the dialect does it.

The arguments of codecs are named tuples and not frozen dataclasses, which take ten times as long to
define: every header-only `inspect` imports them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, final

from loratools.deltas import Delta
from loratools.deltas.lora import Scaling
from loratools.errors import UnsupportedError, shorten
from loratools.formats._peft.config import PeftConfig
from loratools.formats._peft.peft_type import PeftType
from loratools.io.source import Source
from loratools.parts import Update

#: The roles of the tensors that are one update together: `("lora_A", "lora_B")`.
Form = tuple[str, ...]
#: The tensors of an adapter, by module and by role. A role is the part of a key after the module,
#: without the adapter's name and without `.weight`: `lora_A`, `lora_B.bias`.
Modules = Mapping[str, Mapping[str, Source]]
#: Returns the update of a module, given its path and its tensors by role, or None where the module
#: does not have the usual form.
Shortcut = Callable[[str, Mapping[str, Source]], Update | None]


@final
class StoredModule(NamedTuple):
    """The stored tensors of one module, and the targets of their updates.

    Attributes:
        where: the file, for messages.
        config: the config of the adapter.
        path: the module's name, which the config's patterns are matched against.
        weight: the target of the module's weight.
        bias: the target of the module's bias.
        times: how many times PEFT applied the update of the weight.
        roles: the tensors of this module, by role.
        modules: the tensors of all modules, by module and role.
        shared: the tensors of the whole model, by the names in the `shared` of the type.
        inert: the keys of tensors without effect, each with the reason; a codec may add to it.
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
        """The update of the weight by `delta`; a layer's matrix may be stored transposed."""
        is_matrix = len(delta.shape) == 2 and not is_embedding
        orientation = self.config.flag("fan_in_fan_out") if is_matrix else None
        return Update(delta, orientation, is_embedding=is_embedding)


@final
class WrittenModule(NamedTuple):
    """A module whose updates are written.

    Attributes:
        where: the adapter, for messages.
        path: the module's name, which the config's patterns are matched against.
        key: the prefix of its tensors' keys, after `base_model.model.`.
        target: the target of its weight.
        bias: the target of its bias.
        update: the update of the weight.
        updates: the updates of all targets of the adapter.
        times: how many times PEFT applies the update of the weight.
        rank: the rank that the config has to give to the module.
        alpha: the alpha that the config has to give to the module.
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
        """The factor by which PEFT multiplies the update each time that it applies it."""
        scaling = self.update.delta.scaling
        return 1.0 if scaling is None else scaling.value / self.times

    def refused(self, reason: str) -> UnsupportedError:
        """An error that PEFT cannot store this update, with the reason."""
        return UnsupportedError(
            f"{self.where}: {shorten(self.target)}: {reason}", tensor=self.target
        )


@final
class Announcement(NamedTuple):
    """The field of a config by which PEFT announces that every module has a certain part.

    Attributes:
        field: the name of the field.
        role: the role of the part.
        instead: what PEFT takes for the part where it is missing, for messages.
        settings: whether the field is an object of settings, which announces the part by not being
            null; else the field is a flag.
    """

    field: str
    role: str
    instead: str
    settings: bool = False

    def is_set(self, config: PeftConfig) -> bool:
        """Whether the config announces the part, in PEFT's reading."""
        if self.settings:
            return config.fields.get(self.field) is not None
        return config.flag(self.field)

    def write(self, fields: dict[str, Any], *, is_stored: bool) -> None:
        """Set the field to say whether the part is stored; existing settings are kept."""
        if not self.settings:
            fields[self.field] = is_stored
        elif is_stored:
            fields[self.field] = fields.get(self.field) or {}
        elif self.field in fields:
            fields[self.field] = None


class Codec(ABC):
    """The common base of codecs for kinds of update, and for parts beside them."""

    peft_type: ClassVar[PeftType]
    #: The part that a field of the config announces; None where no field announces one.
    announced: ClassVar[Announcement | None] = None

    @property
    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """The roles of the codec's tensors."""

    @property
    @abstractmethod
    def beside(self) -> tuple[str, ...]:
        """The roles of the tensors beside which the announced tensor is stored."""

    @abstractmethod
    def takes(self, delta: Delta) -> bool:
        """Whether an update is of this kind."""


class KindCodec(Codec):
    """The way in which PEFT stores one kind of update to a module's weight."""

    #: The sets of tensors that can form such an update. A module has all tensors of one set.
    forms: ClassVar[tuple[Form, ...]]

    @property
    @final
    def roles(self) -> tuple[str, ...]:
        """The roles of the tensors in all forms."""
        return tuple(dict.fromkeys(role for form in self.forms for role in form))

    @property
    @final
    def beside(self) -> tuple[str, ...]:
        """The roles of all tensors but the announced one."""
        return tuple(r for r in self.roles if self.announced is None or r != self.announced.role)

    @abstractmethod
    def decode(self, module: StoredModule) -> Iterator[tuple[str, Update]]:
        """The updates of a module that has one of the forms, by target; the weight's comes first.

        Raises:
            ShapeMismatchError: the tensors do not fit each other.
            UnsupportedError: the update has no counterpart in the shape of a weight.
        """

    @abstractmethod
    def encode(self, module: WrittenModule) -> Iterator[tuple[str, Source]]:
        """The tensors of a module, by what follows its name in their keys: `lora_A.weight`.

        Raises:
            UnsupportedError: PEFT cannot store the update.
        """

    def rank(self, delta: Delta) -> int:
        """The rank that the config gives to a module with this update; 1 where kinds have none."""
        return 1

    def stored_rank(self, module: StoredModule, update: Update) -> int | None:
        """The rank of a module's tensors, which must be the config's; None where any is right."""
        return self.rank(update.delta)

    def targets(self, module: WrittenModule) -> tuple[str, ...]:
        """The targets whose updates `encode` stores."""
        return (module.target,)

    def shortcut(self, config: PeftConfig) -> Shortcut | None:
        """A faster `decode` for the form and the shapes that nearly all modules have, or None."""
        return None

    def encode_shared(self, modules: Sequence[WrittenModule]) -> Iterator[tuple[str, Source]]:
        """The tensors of the whole model, by the names in the `shared` of the type."""
        yield from ()

    def set_fields(self, fields: dict[str, Any], modules: Sequence[WrittenModule]) -> None:
        """Set the fields that this kind needs, besides the rank, the alpha and `announced`."""


class BesideCodec(Codec):
    """The way in which PEFT stores an update of another parameter beside that of a weight.

    If one module of an adapter has such a part, then all modules that can have it do.
    """

    role: ClassVar[str]
    #: A module can have the part if it has all tensors of this form.
    form: ClassVar[Form]

    @property
    @final
    def roles(self) -> tuple[str, ...]:
        """The role of the one tensor."""
        return (self.role,)

    @property
    @final
    def beside(self) -> tuple[str, ...]:
        """The roles in `form`."""
        return self.form

    @abstractmethod
    def decode(self, module: StoredModule, update: Update) -> Iterator[tuple[str, Update]]:
        """The update of the other parameter, if PEFT applies it; `update` is the weight's."""

    @abstractmethod
    def target(self, module: WrittenModule) -> str | None:
        """The target of the other parameter; None for a module that cannot have the part."""

    @abstractmethod
    def encode(self, module: WrittenModule, update: Update | None) -> Iterator[tuple[str, Source]]:
        """The part of a module that can have it; without an `update`, a part that has no effect."""
