"""KaSA in PEFT: a LoRA of a linear layer and its `lora_diag`, announced by `kasa_config`."""

from typing import final

from loratools.deltas import Delta
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import LoRA
from loratools.formats._peft.kinds import Announcement, WrittenModule
from loratools.formats._peft.kinds._factors import LINEAR
from loratools.formats._peft.kinds._lora import AroundLoRA, with_role
from loratools.io.source import Source


@final
class _KaSACodec(AroundLoRA):
    """The codec of a KaSA: a LoRA and a diagonal with one number for each rank."""

    role = "lora_diag"
    forms = with_role(role, LINEAR)
    announced = Announcement("kasa_config", role, instead="new numbers", settings=True)

    def takes(self, delta: Delta) -> bool:
        """Whether an update is a KaSA."""
        return isinstance(delta, KaSA)

    def around(self, lora: LoRA, tensor: Source, *, is_embedding: bool) -> KaSA:
        """The KaSA of the factors and the diagonal."""
        return KaSA(lora, tensor)

    def tensor(self, module: WrittenModule) -> Source:
        """The diagonal, as a vector."""
        delta = module.update.delta
        assert isinstance(delta, KaSA)
        if module.update.is_embedding:
            raise module.refused("PEFT has no place for a KaSA of an embedding")
        return delta.diagonal


CODEC = _KaSACodec()
