"""An update is smaller than the weight of the base that it belongs to."""

from collections.abc import Iterator

from loratools.errors import MatchError, listing
from loratools.names.matching import BaseNames
from loratools.parts import Note
from loratools.traps._trap import Seen, Trap


class _SmallMatrices(Trap):
    what = "An update is a smaller matrix than the weight of the base with its name."
    readers = (
        "vLLM copies it into a corner of the layer, and fills up the rest with zeros, silently"
    )
    cure = "use the model that it was trained on, as `merge` refuses it for another"
    found_by = "`inspect --base`"

    def find(self, seen: Seen) -> Iterator[Note]:
        small = [] if seen.base is None else [*_small(seen)]
        if small:
            yield Note(
                "problem",
                f"smaller than the layer of the base, which vLLM fills up with zeros without a "
                f"word: {listing(small, 3)}",
            )


def _small(seen: Seen) -> Iterator[str]:
    assert seen.base is not None
    shapes = {name: stored.shape for name, stored in seen.base.tensors.items()}
    names = BaseNames(shapes)
    for target, update in seen.adapter.updates.items():
        shape = update.delta.shape
        if shapes.get(target) == shape:
            continue
        try:
            match = names.match_name(target)
        except MatchError:
            continue  # several tensors may be meant, which the refusal of the merge says
        layer = shapes[match.name] if match else shape
        may_be_transposed = update.fan_in_fan_out is not None
        sides = [layer, layer[::-1]] if may_be_transposed else [layer]
        if shape not in sides and any(_fits_into(shape, side) for side in sides):
            yield f"{target} {list(shape)} in {list(layer)}"


def _fits_into(shape: tuple[int, ...], layer: tuple[int, ...]) -> bool:
    is_as_deep = len(shape) == len(layer)
    return is_as_deep and all(size <= room for size, room in zip(shape, layer, strict=True))


TRAP = _SmallMatrices()
