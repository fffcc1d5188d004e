"""The codecs of updates of modules, and the choice of the codec for a module's tensors."""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import NamedTuple, final

from loratools import registry
from loratools.deltas import Delta
from loratools.errors import FormatError, about, listing
from loratools.formats._modules import kinds
from loratools.formats._modules.alphas import ALPHA, read_alphas
from loratools.formats._modules.kinds import Codec, StoredModule
from loratools.formats._modules.magnitudes import DoRACodec, settled
from loratools.io.source import Source
from loratools.parts import Note


@final
class Decoded(NamedTuple):
    """The updates of a file's modules in file order, and notes on what their tensors leave open."""

    deltas: Mapping[str, Delta]
    notes: tuple[Note, ...]


@final
class Codecs:
    """The codecs of all kinds of update that can be stored module by module."""

    def __init__(self, codecs: tuple[Codec, ...]) -> None:
        self.kinds = codecs

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """The names of all parts that a module may have, its alpha first."""
        forms = (form for codec in self.kinds for form in codec.forms)
        return tuple(dict.fromkeys((ALPHA, *(part for form in forms for part in form))))

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """The names of parts that only kohya's files have, whatever the module is called."""
        return tuple(part for codec in self.kinds for part in codec.marks)

    def decoded(self, where: str, modules: Mapping[str, Mapping[str, Source]]) -> Decoded:
        """The updates of modules, from their tensors by the names of the parts.

        Raises:
            FormatError: a module's tensors form no update.
            ShapeMismatchError: they do not fit each other.
        """
        alphas = read_alphas({n: parts[ALPHA] for n, parts in modules.items() if ALPHA in parts})
        stored = {
            name: StoredModule(f"{where}: {name}", parts, alphas.get(name))
            for name, parts in modules.items()
        }
        deltas = {}
        for name, module in stored.items():
            with about(name):
                deltas[name] = self.kind_of(module.name, module.parts).decode(module)
        axes = settled(stored, deltas)
        return Decoded({**deltas, **axes.changed}, axes.notes)

    def kind_of(self, where: str, parts: Mapping[str, Source]) -> Codec:
        """The codec of the kind of update that a module's tensors form.

        Raises:
            FormatError: some of its tensors are missing, or belong to another update.
        """
        own = frozenset(parts) - {ALPHA}
        codec = self._by_parts.get(own)
        if codec is not None:
            return codec
        nearest = max(self._by_parts, key=lambda form: (len(form & own), -len(form)))
        missing = [part for part in self.parts if part in nearest - own]
        what = (
            f"and no {listing(missing)}: half an update"
            if missing
            else "which are parts of two updates"
        )
        raise FormatError(f"{where} has {listing(parts)} {what}")

    @cached_property
    def _by_parts(self) -> Mapping[frozenset[str], Codec]:
        return {frozenset(form): codec for codec in self.kinds for form in codec.forms}

    def taking(self, delta: Delta) -> Codec | None:
        """The codec that can store an update; None where there is none."""
        return next((codec for codec in self.kinds if codec.takes(delta)), None)


def all_codecs() -> Codecs:
    """The codecs of all modules in the folder `kinds`, and those of DoRAs around them."""
    return _loaded(registry.names(kinds))


@cache
def _loaded(names: tuple[str, ...]) -> Codecs:
    codecs: tuple[Codec, ...] = tuple(registry.load(kinds, name).CODEC for name in names)
    return Codecs((*codecs, *(DoRACodec(codec) for codec in codecs if codec.has_dora)))
