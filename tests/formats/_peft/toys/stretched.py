"""A codec for a kind without rank or alpha that has a field of its own: `stretched_modules`."""

from collections.abc import Iterator, Sequence
from typing import Any, final

from loratools.deltas import Delta
from loratools.formats._peft.kinds import KindCodec, StoredModule, WrittenModule
from loratools.formats._peft.peft_type import PeftType
from loratools.io.source import Source
from loratools.parts import Update
from tests.deltas.toys import Stretched


@final
class _StretchedCodec(KindCodec):
    peft_type = PeftType("STRETCH", "stretch", scaling=None, fields=())
    forms = (("stretch_l",),)

    def takes(self, delta: Delta) -> bool:
        return isinstance(delta, Stretched)

    def decode(self, module: StoredModule) -> Iterator[tuple[str, Update]]:
        factors = module.roles["stretch_l"]
        columns = factors.shape[0]
        yield module.weight, Update(Stretched(factors, (columns, columns)))

    def encode(self, module: WrittenModule) -> Iterator[tuple[str, Source]]:
        delta = module.update.delta
        assert isinstance(delta, Stretched)
        yield "stretch_l", delta.factors

    def set_fields(self, fields: dict[str, Any], modules: Sequence[WrittenModule]) -> None:
        fields["stretched_modules"] = [module.path for module in modules]


CODEC = _StretchedCodec()
