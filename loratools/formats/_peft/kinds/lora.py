"""LoRA in PEFT: `lora_A` and `lora_B`, or `lora_embedding_A` and `lora_embedding_B`."""

from collections.abc import Iterator, Mapping
from typing import final

from loratools.deltas import Delta
from loratools.deltas.lora import LoRA
from loratools.formats._peft.config import PeftConfig
from loratools.formats._peft.kinds import Shortcut, StoredModule, WrittenModule
from loratools.formats._peft.kinds._factors import (
    EMBEDDING,
    LINEAR,
    decoded_factors,
    enabled_parts,
    encoded_factors,
)
from loratools.formats._peft.kinds._lora import LoRAKind, lora_in
from loratools.io.source import Source
from loratools.parts import Update


@final
class _LoRACodec(LoRAKind):
    """The codec of a LoRA, which is stored as a pair of factors."""

    forms = (LINEAR, EMBEDDING)

    def takes(self, delta: Delta) -> bool:
        """Whether an update is a plain LoRA."""
        return isinstance(delta, LoRA)

    def decode(self, module: StoredModule) -> Iterator[tuple[str, Update]]:
        """The update of the weight, from the two factors."""
        is_embedding = EMBEDDING[0] in module.roles
        yield module.weight, module.update(decoded_factors(module), is_embedding=is_embedding)

    def encode(self, module: WrittenModule) -> Iterator[tuple[str, Source]]:
        """The two factors."""
        yield from encoded_factors(module, lora_in(module.update.delta))

    def shortcut(self, config: PeftConfig) -> Shortcut | None:
        """A decoder for a pair of matrices with the rank in the config, in a third of the time."""
        if enabled_parts(config) or config.flag("use_bdlora"):
            return None
        fan_in_fan_out = config.flag("fan_in_fan_out")

        def decode(path: str, roles: Mapping[str, Source]) -> Update | None:
            down, up = roles.get("lora_A"), roles.get("lora_B")
            if down is None or up is None or len(roles) != 2:
                return None
            scaling, below, above = config.scaling(path), down.shape, up.shape
            if not (len(below) == len(above) == 2 and below[0] == above[1] == scaling.rank):
                return None
            return Update(LoRA(up, down, scaling, (above[0], below[1])), fan_in_fan_out)

        return decode


CODEC = _LoRACodec()
