"""The codecs of updates of modules, and the choice of the codec for a module's tensors."""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import final

from loratools import registry
from loratools.deltas import Delta
from loratools.errors import FormatError, listing
from loratools.formats._modules import kinds
from loratools.formats._modules.alphas import ALPHA
from loratools.formats._modules.kinds import Codec
from loratools.io.source import Source


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
    """The codecs of all modules in the folder `kinds`."""
    return _loaded(registry.names(kinds))


@cache
def _loaded(names: tuple[str, ...]) -> Codecs:
    return Codecs(tuple(registry.load(kinds, name).CODEC for name in names))
