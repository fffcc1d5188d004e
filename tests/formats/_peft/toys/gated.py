"""A codec for a kind with a LoRA and one more tensor, `lora_gate`, announced by `use_gate`."""

from typing import final

from loratools.deltas import Delta
from loratools.deltas.lora import LoRA
from loratools.formats._peft.kinds import Announcement, WrittenModule
from loratools.formats._peft.kinds._factors import LINEAR
from loratools.formats._peft.kinds._lora import AroundLoRA, with_role
from loratools.io.source import Source
from tests.deltas.toys import Gated


@final
class _GatedCodec(AroundLoRA):
    role = "lora_gate"
    forms = with_role(role, LINEAR)
    announced = Announcement("use_gate", role, instead="ones")

    def takes(self, delta: Delta) -> bool:
        return isinstance(delta, Gated)

    def around(self, lora: LoRA, tensor: Source, *, is_embedding: bool) -> Gated:
        return Gated(lora, tensor)

    def tensor(self, module: WrittenModule) -> Source:
        delta = module.update.delta
        assert isinstance(delta, Gated)
        return delta.gate


CODEC = _GatedCodec()
