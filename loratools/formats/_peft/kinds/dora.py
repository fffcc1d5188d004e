"""DoRA in PEFT: a LoRA and its `lora_magnitude_vector`, announced by `use_dora`."""

from typing import final

from loratools.deltas import Delta
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA
from loratools.formats._peft.kinds import Announcement, WrittenModule
from loratools.formats._peft.kinds._factors import EMBEDDING, LINEAR
from loratools.formats._peft.kinds._lora import AroundLoRA, with_role
from loratools.formats._peft.tensors import shaped, vector
from loratools.io.source import Source


@final
class _DoRACodec(AroundLoRA):
    """The codec of a DoRA: a LoRA and a magnitude for each output, or column of an embedding."""

    role = "lora_magnitude_vector"
    forms = with_role(role, LINEAR, EMBEDDING)
    announced = Announcement("use_dora", role, instead="the norms of the base")

    def takes(self, delta: Delta) -> bool:
        """Whether an update is a DoRA of a LoRA."""
        return isinstance(delta, DoRA) and delta.low_rank is not None

    def around(self, lora: LoRA, tensor: Source, *, is_embedding: bool) -> DoRA:
        """The DoRA of the factors and the magnitudes."""
        return DoRA(lora, vector(tensor), "column" if is_embedding else "row")

    def tensor(self, module: WrittenModule) -> Source:
        """The magnitudes; those of a convolution have the axes of its weight."""
        delta = module.update.delta
        assert isinstance(delta, DoRA)
        if (delta.axis == "column") != module.update.is_embedding:
            raise module.refused(
                f"PEFT has a magnitude for each output, and this DoRA has one for each {delta.axis}"
            )
        kernel = (1,) * (len(delta.shape) - 2)
        shape = delta.magnitude.shape
        return shaped(delta.magnitude, (1, *shape, *kernel) if kernel else shape)


CODEC = _DoRACodec()
