"""A codec for a kind with a tensor of the whole model, `shared_down`, and one of each module."""

from collections.abc import Iterator, Sequence
from typing import final

from loratools.deltas import Delta
from loratools.deltas.lora import LoRA
from loratools.formats._peft.kinds import KindCodec, StoredModule, WrittenModule
from loratools.formats._peft.peft_type import PeftType
from loratools.io.source import Source
from loratools.parts import Update


@final
class _SharedCodec(KindCodec):
    peft_type = PeftType("SHARED", "shared", scaling=None, shared=("shared_down",))
    forms = (("shared_up",),)

    def takes(self, delta: Delta) -> bool:
        return isinstance(delta, LoRA)

    def decode(self, module: StoredModule) -> Iterator[tuple[str, Update]]:
        up, down = module.roles["shared_up"], module.shared["shared_down"]
        shape = (up.shape[0], down.shape[1])
        yield module.weight, module.update(LoRA(up, down, module.scaling, shape))

    def encode(self, module: WrittenModule) -> Iterator[tuple[str, Source]]:
        yield "shared_up", self._lora(module).up

    def encode_shared(self, modules: Sequence[WrittenModule]) -> Iterator[tuple[str, Source]]:
        yield "shared_down", self._lora(modules[0]).down

    def _lora(self, module: WrittenModule) -> LoRA:
        delta = module.update.delta
        assert isinstance(delta, LoRA)
        return delta


CODEC = _SharedCodec()
