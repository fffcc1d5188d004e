"""What a dialect states of itself, and how sure it is that files are its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, final

if TYPE_CHECKING:
    from loratools.adapter import Adapter
    from loratools.io.bundle import Bundle


class Sureness(IntEnum):
    """How sure a dialect is that a bundle is its own. The surest dialect reads it.

    A dialect claims by `KEYS` or `CONFIG` only what it can decode. With `POSSIBLE` it also claims
    what it can but refuse with a better reason than others: a kind of update that it has no codec
    for, or tensors without the config that they need.
    """

    #: Nothing here is its own.
    NO = 0
    #: It could be: the keys may also be another dialect's, or only the config beside them says so.
    POSSIBLE = 1
    #: Only this dialect writes such keys.
    KEYS = 2
    #: The config says so, and the keys agree.
    CONFIG = 3


@final
@dataclass(frozen=True)
class Option:
    """A question that the files do not answer: one of `values`, of which the first is the default.

    It is an option of the commands that read an adapter, `--out-proj` for the name `out_proj`, with
    `help` in their `--help`; in Python it is an entry of `dialect_options`.
    """

    name: str
    values: tuple[str, ...]
    help: str


def _no_class(adapter: "Adapter") -> None:
    return None


@final
@dataclass(frozen=True)
class Dialect:
    """What a dialect states of itself; its folder has it as `DIALECT`.

    Attributes:
        name: that of the folder.
        weights: the file of tensors in an adapter's folder, `adapter_model.safetensors`; None where
            an adapter is a single file of any name.
        indexes: of an adapter in several files, what its index may be called besides
            `adapter_model.safetensors.index.json`.
        config: the JSON file beside the tensors; None for a dialect without one.
        base_field, revision_field: of the config, which name the base on the Hub and its revision.
        prefix: what stands before the names of all modules in its keys.
        module_fields: the fields of its config that have names of modules, or patterns of them.
        options: what its `decode` wants to be told.
        library: what loads its adapters, as a model card's `library_name`; None where nothing does.
        tags: of a model card, beside those that every adapter has.
        usage: for a model card, how the library loads an adapter: Markdown, as a Jinja template
            with the names that every card has, and `base`, the base's name or a word for it.
        base_class: the class of transformers that loads the base of an adapter, for that text.
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


class Reader(Protocol):
    """The module `read` of a dialect's folder."""

    def claim(self, bundle: "Bundle") -> Sureness:
        """How sure the dialect is that these files are its own, by keys and config alone."""
        ...

    def decode(self, bundle: "Bundle", options: Mapping[str, str]) -> "Adapter":
        """The canonical form of the files; `options` has a value for each option of the dialect."""
        ...


class Writer(Protocol):
    """The module `write` of a dialect's folder."""

    def encode(self, adapter: "Adapter") -> "Bundle":
        """The files of an adapter, or a refusal of what the dialect has no place for."""
        ...
