"""The codecs of kohya's files, and which of them a module's tensors belong to."""

from collections.abc import Mapping
from functools import cache, cached_property
from typing import final

from loratools import registry
from loratools.deltas import Delta
from loratools.errors import FormatError, listing
from loratools.formats.kohya import kinds
from loratools.formats.kohya.alphas import ALPHA
from loratools.formats.kohya.kinds import Codec
from loratools.io.source import Source


@final
class Codecs:
    """The codecs of all kinds."""

    def __init__(self, codecs: tuple[Codec, ...]) -> None:
        self.kinds = codecs

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """All parts that a module may have, its alpha first."""
        forms = (form for codec in self.kinds for form in codec.forms)
        return tuple(dict.fromkeys((ALPHA, *(part for form in forms for part in form))))

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Parts that only kohya's files have, whatever a module is called."""
        return tuple(part for codec in self.kinds for part in codec.marks)

    def kind_of(self, where: str, parts: Mapping[str, Source]) -> Codec:
        """The kind of update that the tensors of a module are.

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
        """The codec that stores a change; None where no module of such a file can have one."""
        return next((codec for codec in self.kinds if codec.takes(delta)), None)


def all_codecs() -> Codecs:
    """The codecs that lie in the folder of kinds."""
    return _loaded(registry.names(kinds))


@cache
def _loaded(names: tuple[str, ...]) -> Codecs:
    return Codecs(tuple(registry.load(kinds, name).CODEC for name in names))
