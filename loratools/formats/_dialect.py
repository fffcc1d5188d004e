"""The contract of a dialect: its description, its reader, its writer, and how sure it can be."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from loratools.adapter import Adapter
    from loratools.io.bundle import Bundle
    from loratools.names.components import Style


class Sureness(IntEnum):
    """How sure a dialect is that files are its own. The surest dialect reads them.

    A dialect answers `KEYS` or `CONFIG` only for files that it can decode. It answers `POSSIBLE`
    also for files that it cannot decode but can explain better than other dialects: a kind of
    update that it has no codec for, or tensors without the config that they need.
    """

    #: Nothing in the files belongs to the dialect.
    NO = 0
    #: The files may be its own: other dialects have such keys too, or only the config says so.
    POSSIBLE = 1
    #: Only this dialect writes such keys.
    KEYS = 2
    #: The config names the dialect, and the keys agree. Only a dialect with a config answers this.
    CONFIG = 3


def _any_text(text: str) -> object:
    return text


@final
@dataclass(frozen=True)
class Option:
    """An option for reading: it answers a question that the files of an adapter leave open.

    Commands that read an adapter take it as an option (`--out-proj` for the name `out_proj`) and
    show `help` in their `--help`; in Python it is an entry of `dialect_options`. Dialects that need
    the same answer share one option.

    Attributes:
        name: its name in Python.
        values: the values that it can have, the default first; empty for an option whose value is
            a text, which has no default.
        help: what `--help` says of it.
        number: what `--help` calls a finite number, where the value may also be one.
        text: what `--help` calls the text, where the value is one. Commands take such an option
            several times, and join the texts by newlines.
        check: raises an `OptionError` for a text that the dialect cannot use. It is called before
            anything is read.
        decides: whether giving the option says that the adapter is in this dialect.
    """

    name: str
    values: tuple[str, ...]
    help: str
    number: str | None = None
    text: str | None = None
    check: Callable[[str], object] = field(default=_any_text, repr=False)
    decides: bool = False

    @property
    def default(self) -> str | None:
        """The value where none is given; None for a text."""
        return self.values[0] if self.values else None

    def takes(self, value: object) -> bool:
        """Whether the option can have this value.

        Raises:
            OptionError: it is a text that the dialect cannot use.
        """
        if self.text is not None and isinstance(value, str):
            self.check(value)
            return True
        return value in self.values or (self.number is not None and _is_number(value))

    @property
    def choices(self) -> str:
        """The values that the option can have, for messages."""
        if self.text is not None:
            return "a text"
        number = ["a number"] if self.number else []
        return f"one of {', '.join((*self.values, *number))}"


def _is_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


#: The alpha of an adapter whose files do not say it, for all dialects that have such files.
ALPHA = Option(
    "alpha",
    ("auto",),
    "The alpha of an adapter whose files do not say it; auto: its rank, with a note.",
    number="A",
)
#: The factor of all updates of an adapter, for dialects whose files do not always settle it.
SCALE = Option(
    "scale",
    ("auto",),
    "The factor of every update, for --keys and MLX; auto: as the files say, with a note if "
    "they do not.",
    number="S",
)


def _no_class(adapter: "Adapter") -> None:
    return None


@final
@dataclass(frozen=True)
class Dialect:
    """The description of a dialect, which its folder has as `DIALECT`.

    Attributes:
        name: the name of the dialect and of its folder.
        weights: the name of the weights file in an adapter's folder, `adapter_model.safetensors`;
            None where an adapter is a single file of any name. With this name and without a config,
            an adapter is a folder or a file.
        indexes: other names that the index of an adapter in several files may have, besides
            `adapter_model.safetensors.index.json`.
        config: the name of the JSON file beside the tensors; None for a dialect without one.
        base_field: the field of the config that names the base on the Hub.
        revision_field: the field of the config with the base's revision.
        prefix: the prefix of all module names in the dialect's keys.
        module_fields: the fields of the config that hold module names, or patterns of them.
        options: the options for reading that `decode` is given.
        library: the library that loads the adapters, for `library_name` in a model card; None where
            no library does.
        tags: tags of a model card, besides those that every adapter has.
        usage: the text in a model card on how the library loads an adapter: Markdown, as a Jinja
            template with the variables that every card has, and `base`, the base's name or a
            placeholder for it.
        base_class: returns the class of transformers that loads an adapter's base, for `usage`.
        components: the components of a pipeline that it has a place for; none where an adapter is
            of one model.
        style: how the dialect spells the names of targets, so that they can be spelled otherwise.
        reads: the names of the kinds of update that it reads; rsLoRA is a LoRA.
        writes: the names of those that it writes; none where it is only read, or only written
            again as it was read.
        merges: whether an adapter in the dialect is an update of a base, which it can be merged
            into; a ControlNet is not.
    """

    name: str
    weights: str | None = None
    indexes: tuple[str, ...] = ()
    config: str | None = None
    base_field: str | None = None
    revision_field: str | None = None
    prefix: str = ""
    module_fields: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    library: str | None = None
    tags: tuple[str, ...] = ()
    usage: str | None = None
    base_class: "Callable[[Adapter], str | None]" = _no_class
    components: tuple[str, ...] = ()
    style: "Style" = "modules"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    merges: bool = True

    @property
    def is_folder(self) -> bool | None:
        """Whether an adapter is a folder, because it has a config, or one file; None for either."""
        if self.config is not None:
            return True
        return False if self.weights is None else None


class Reader(Protocol):
    """The module `read` of a dialect's folder."""

    def claim(self, bundle: "Bundle") -> Sureness:
        """How sure the dialect is that these files are its own, by keys and config alone."""
        ...

    def decode(self, bundle: "Bundle", options: Mapping[str, str]) -> "Adapter":
        """The adapter in the files.

        `options` has a value for each option of the dialect, but for texts that were not given.
        """
        ...


#: From the keys of a file to the names of the tensors of a model in it; other keys are left out.
BaseNames = Callable[[Collection[str]], Mapping[str, str]]


class ToldReader(Reader, Protocol):
    """The module `read` of a dialect with an option that decides that files are in it."""

    def fits(self, bundle: "Bundle", options: Mapping[str, str]) -> bool:
        """Whether there is anything in the files of which the options speak."""
        ...

    def base_names(self, options: Mapping[str, str]) -> BaseNames | None:
        """The names of a model in the adapter's own file; None if the options say of none."""
        ...


class Writer(Protocol):
    """The module `write` of a dialect's folder."""

    def encode(self, adapter: "Adapter") -> "Bundle":
        """The files of an adapter.

        Raises:
            UnsupportedError: the dialect cannot store something in the adapter.
        """
        ...
