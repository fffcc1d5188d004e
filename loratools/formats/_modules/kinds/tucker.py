"""LoCon with a Tucker core: `lora_mid.weight` between `lora_down.weight` and `lora_up.weight`."""

from collections.abc import Iterator
from typing import final

from loratools.deltas import Delta
from loratools.deltas.tucker import Tucker
from loratools.errors import ShapeMismatchError
from loratools.formats._modules.kinds import Codec, StoredModule
from loratools.io.source import Source, flattened, reshaped

_DOWN, _CORE, _UP = "lora_down.weight", "lora_mid.weight", "lora_up.weight"


@final
class _TuckerCodec(Codec):
    """The codec of a LoCon whose kernel is in a core of its own."""

    forms = ((_DOWN, _CORE, _UP),)
    marks = (_CORE,)
    has_dora = True

    def takes(self, delta: Delta) -> bool:
        """Whether an update has a Tucker core."""
        return isinstance(delta, Tucker)

    def decode(self, module: StoredModule) -> Tucker:
        """The update of a convolution; both factors have kernels of size 1."""
        down, core, up = (module.parts[part] for part in (_DOWN, _CORE, _UP))
        below, middle, above = down.shape, core.shape, up.shape
        kernel = (1,) * (len(middle) - 2)
        if len(middle) < 2 or (*below[2:],) != kernel or (*above[2:],) != kernel:
            raise _mismatch(module.name, below, middle, above)
        if len(below) < 2 or len(above) < 2 or (above[1], below[0]) != middle[:2]:
            raise _mismatch(module.name, below, middle, above)
        return Tucker(flattened(up), core, flattened(down), module.scaling(rank=below[0]))

    def encode(self, delta: Delta) -> Iterator[tuple[str, Source]]:
        """The factors, with kernels of size 1, and the core."""
        assert isinstance(delta, Tucker)
        kernel = (1,) * (len(delta.shape) - 2)
        yield _DOWN, reshaped(delta.down, (*delta.down.shape, *kernel))
        yield _CORE, delta.core
        yield _UP, reshaped(delta.up, (*delta.up.shape, *kernel))

    def rank(self, delta: Delta) -> int:
        """The rank of `lora_down`, which LyCORIS and ComfyUI divide by."""
        assert isinstance(delta, Tucker)
        return delta.down.shape[0]


def _mismatch(
    where: str, down: tuple[int, ...], core: tuple[int, ...], up: tuple[int, ...]
) -> ShapeMismatchError:
    return ShapeMismatchError(
        f"{where}: lora_down {list(down)}, lora_mid {list(core)} and lora_up {list(up)} do not "
        f"fit: expected (rank, in, 1...), (rank, rank, kernel...) and (out, rank, 1...)"
    )


CODEC = _TuckerCodec()
