"""The update of a bias beside a LoRA in PEFT: `lora_B.bias`, announced by `lora_bias`."""

from collections.abc import Iterator
from typing import final

from loratools.deltas import Delta
from loratools.deltas.diff import Diff
from loratools.errors import ShapeMismatchError, counted
from loratools.formats._peft.kinds import (
    Announcement,
    BesideCodec,
    StoredModule,
    WrittenModule,
)
from loratools.formats._peft.kinds._factors import LINEAR
from loratools.formats._peft.kinds._lora import LORA
from loratools.io.computed import multiplied
from loratools.io.source import Held, Source
from loratools.parts import Update


@final
class _BiasCodec(BesideCodec):
    """The codec of a vector that is added to a bias, times the scaling of the factors."""

    peft_type = LORA
    role = "lora_B.bias"
    form = LINEAR
    announced = Announcement("lora_bias", role, instead="zeros")

    def takes(self, delta: Delta) -> bool:
        """Whether an update is stored whole, not as factors."""
        return isinstance(delta, Diff)

    def decode(self, module: StoredModule, update: Update) -> Iterator[tuple[str, Update]]:
        """The update of the bias, which PEFT applies once even where it applies the weight's twice.

        Raises:
            ShapeMismatchError: the tensor does not have one number for each output.
        """
        bias, outputs = module.roles[self.role], update.delta.shape[:1]
        if module.weight.endswith(".in_proj_weight"):
            module.inert[bias.keys[0]] = "PEFT stores it and never applies it"
        elif bias.shape != outputs:
            raise ShapeMismatchError(
                f"{module.name}: lora_B.bias has the shape {list(bias.shape)}, where "
                f"{counted(outputs[0], 'number is', 'numbers are')} expected",
                tensor=module.path,
            )
        else:
            yield module.bias, Update(Diff(bias, module.config.scaling(module.path)))

    def target(self, module: WrittenModule) -> str | None:
        """The bias of the module; an embedding has none."""
        return None if module.update.is_embedding else module.bias

    def encode(self, module: WrittenModule, update: Update | None) -> Iterator[tuple[str, Source]]:
        """The vector that PEFT multiplies by the factors' scaling; zeros without an update."""
        yield self.role, _numbers(module, update.delta) if update else _zeros(module)


def _numbers(module: WrittenModule, delta: Delta) -> Source:
    assert isinstance(delta, Diff)
    # PEFT multiplies the vector by the scaling of the weight's factors, so where the bias has
    # another scaling, the quotient is multiplied into the vector.
    values, scaling = delta.values, module.scaling
    if delta.scaling.value == scaling:
        return values
    if not scaling:
        raise module.refused("a bias with a scaling of 0")
    return multiplied(values, delta.scaling.value / scaling)


def _zeros(module: WrittenModule) -> Source:
    import torch

    zeros = torch.zeros(module.update.delta.shape[0])
    return Held(f"{module.key}.lora_B.bias", zeros, "F32")


CODEC = _BiasCodec()
