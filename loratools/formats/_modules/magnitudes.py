"""DoRA: the tensors of another update, and a magnitude for each output or input: `dora_scale`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, final

from loratools.deltas import Delta
from loratools.deltas.dora import DoRA
from loratools.errors import ShapeMismatchError, listing
from loratools.formats._modules.axes import StoredShapes, decided
from loratools.formats._modules.kinds import Codec, StoredModule
from loratools.formats._modules.spelling import PEFT_MAGNITUDE
from loratools.io.computed import rearranged, same_numbers
from loratools.io.source import Source
from loratools.parts import Note

if TYPE_CHECKING:
    from torch import Tensor

_MAGNITUDE = "dora_scale"


@final
class DoRACodec(Codec):
    """The codec of a DoRA, around the codec of the change to which it gives norms."""

    def __init__(self, change: Codec) -> None:
        self._change = change
        names = (_MAGNITUDE, PEFT_MAGNITUDE)
        self.forms = tuple((*form, magnitude) for form in change.forms for magnitude in names)

    def takes(self, delta: Delta) -> bool:
        """Whether an update is a DoRA of such a change."""
        return isinstance(delta, DoRA) and self._change.takes(delta.change)

    def decode(self, module: StoredModule) -> DoRA:
        """The DoRA of a module; the shape of the magnitude says which axis it belongs to."""
        name, magnitude = _magnitude(module)
        parts = {part: source for part, source in module.parts.items() if part != name}
        change = self._change.decode(module._replace(parts=parts))
        shapes = _shapes(module, change.shape)
        if change.additive is None or not shapes.axes:
            raise ShapeMismatchError(
                f"{module.name}.{name}: {list(magnitude.shape)} has no magnitude for each output "
                f"or each input of a weight {list(change.shape)}"
            )
        vector = _shaped(magnitude, (math.prod(magnitude.shape),))
        return DoRA(change.additive, vector, shapes.axes[0])

    def encode(self, delta: Delta) -> Iterator[tuple[str, Source]]:
        """The tensors of the change, and the magnitudes with all axes of the weight."""
        assert isinstance(delta, DoRA)
        yield from self._change.encode(delta.change)
        at = 0 if delta.axis == "row" else 1
        shape = tuple(size if axis == at else 1 for axis, size in enumerate(delta.shape))
        yield _MAGNITUDE, _shaped(delta.magnitude, shape)

    def rank(self, delta: Delta) -> int:
        """The rank of the change."""
        assert isinstance(delta, DoRA)
        return self._change.rank(delta.change)


@final
class Settled(NamedTuple):
    """Updates whose axis all modules of a file decide together, by module, and notes on others."""

    changed: Mapping[str, Delta]
    notes: tuple[Note, ...]


def settled(modules: Mapping[str, StoredModule], deltas: Mapping[str, Delta]) -> Settled:
    """The DoRAs of square weights, on the axis that the other magnitudes of the file belong to."""
    doras = {name: delta for name, delta in deltas.items() if isinstance(delta, DoRA)}
    shapes = {name: _shapes(modules[name], delta.shape) for name, delta in doras.items()}
    axes, undecided = decided(shapes)
    changed = {name: replace(doras[name], axis=axis) for name, axis in axes.items()}
    return Settled(changed, tuple(_notes([(name, doras[name]) for name in undecided])))


def _notes(undecided: list[tuple[str, DoRA]]) -> Iterator[Note]:
    for axis, what in (("row", "output"), ("column", "input")):
        names = [name for name, delta in undecided if delta.axis == axis]
        if names:
            yield Note(
                "info",
                f"the shape of a DoRA's magnitudes does not tell whether they are those of the "
                f"outputs or of the inputs; taken as one for each {what}: {listing(names, 3)}",
            )


def _magnitude(module: StoredModule) -> tuple[str, Source]:
    """The magnitude of a module, and the name of its part."""
    name = _MAGNITUDE if _MAGNITUDE in module.parts else PEFT_MAGNITUDE
    return name, module.parts[name]


def _shapes(module: StoredModule, weight: tuple[int, ...]) -> StoredShapes:
    name, magnitude = _magnitude(module)
    return StoredShapes(magnitude.shape, weight, is_of_outputs=name == PEFT_MAGNITUDE)


def _shaped(source: Source, shape: tuple[int, ...]) -> Source:
    """The same numbers in another shape; the stored tensor itself if that is its shape."""
    inner = same_numbers(source)
    if inner.shape == shape:
        return inner
    return rearranged(source, shape, partial(_reshaped, shape=shape))


def _reshaped(tensor: "Tensor", shape: tuple[int, ...]) -> "Tensor":
    return tensor.reshape(shape)
