"""LoRA and LoCon as a pair of factors: `lora_down.weight` and `lora_up.weight`."""

from collections.abc import Iterator
from typing import final

from loratools.deltas import Delta, swapped
from loratools.deltas.lora import LoRA
from loratools.errors import FormatError, ShapeMismatchError
from loratools.formats._modules.kinds import Codec, StoredModule
from loratools.io.source import Source, flattened, reshaped

_DOWN, _UP = "lora_down.weight", "lora_up.weight"
#: A linear layer, and convolutions of one to three dimensions.
_DIMENSIONS = (2, 3, 4, 5)


@final
class _LoRACodec(Codec):
    """The codec of a LoRA, which is stored as a pair of factors."""

    forms = ((_DOWN, _UP),)
    marks = (_DOWN, _UP)
    has_dora = True

    def takes(self, delta: Delta) -> bool:
        """Whether an update is a plain LoRA."""
        return isinstance(delta, LoRA)

    def decode(self, module: StoredModule) -> LoRA:
        """The LoRA of a linear layer or a convolution."""
        down, up = module.parts[_DOWN], module.parts[_UP]
        for part, source in ((_DOWN, down), (_UP, up)):
            _check_factor(f"{module.name}.{part}", source)
        below, above = down.shape, up.shape
        if len(below) != len(above) or below[0] != above[1] or set(above[2:]) - {1}:
            raise ShapeMismatchError(
                f"{module.name}: lora_down {list(below)} and lora_up {list(above)} do not fit: "
                f"expected (rank, in, kernel...) and (out, rank, 1...)",
                hint=swapped(above, below),
            )
        scaling = module.scaling(rank=below[0])
        return LoRA(flattened(up), flattened(down), scaling, (above[0], *below[1:]))

    def encode(self, delta: Delta) -> Iterator[tuple[str, Source]]:
        """The factors; those of a convolution have the axes of its kernel."""
        assert isinstance(delta, LoRA)
        kernel = (1,) * (len(delta.shape) - 2)
        yield _DOWN, reshaped(delta.down, (delta.rank, *delta.shape[1:]))
        yield _UP, reshaped(delta.up, (delta.shape[0], delta.rank, *kernel))

    def rank(self, delta: Delta) -> int:
        """The rank of the factors."""
        assert isinstance(delta, LoRA)
        return delta.rank


def _check_factor(where: str, source: Source) -> None:
    if len(source.shape) not in _DIMENSIONS or 0 in source.shape:
        raise FormatError(
            f"{where}: {list(source.shape)} is neither a matrix nor a convolution's kernel"
        )


CODEC = _LoRACodec()
