"""Which axis of a weight the magnitudes of a DoRA belong to, by the shape in which they are stored.

| stored as | one magnitude for each | stored so by |
|---|---|---|
| (out, 1, ...) | output | LyCORIS, as it is set by default |
| (1, in, 1, ...) | input | LyCORIS of older versions, OneTrainer |
| (out,) | output | PEFT, ai-toolkit |
| (1, out, 1, ...) | output | PEFT, for convolutions only |

PEFT's own files are known by the name of the tensor. In others, the last two cannot be told from
a magnitude of each input where the weight has as many inputs as outputs. Then the other modules of
the file decide, which were stored by the same program.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, final

Axis = Literal["row", "column"]
Shape = tuple[int, ...]


@final
class StoredShapes(NamedTuple):
    """The shapes of a stored magnitude and of the weight that it belongs to.

    `is_of_outputs` if its name says that, as PEFT's does.
    """

    magnitude: Shape
    weight: Shape
    is_of_outputs: bool = False

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes that it fits, the one that programs read it as first."""
        count = math.prod(self.magnitude)
        sizes = {"row": self.weight[0], "column": self.weight[1]}
        axes = ("row",) if self.is_of_outputs else _AXES.get(self.form, ())
        return tuple(axis for axis in axes if sizes[axis] == count)

    @property
    def form(self) -> str:
        """The row of the table above, for any number of outputs or inputs."""
        longer = [position for position, size in enumerate(self.magnitude) if size > 1]
        if len(self.magnitude) == 1:
            return "(n,)"
        if not longer and self.magnitude:
            return "(1, 1, ...)"
        if longer == [0]:
            return "(n, 1, ...)"
        if longer == [1]:
            return "(1, n)" if len(self.magnitude) == 2 else "(1, n, 1, ...)"
        return "none"

    @property
    def is_open(self) -> bool:
        """Whether it fits two axes of more than one number."""
        return len(self.axes) == 2 and math.prod(self.magnitude) > 1


_AXES: Mapping[str, tuple[Axis, ...]] = {
    "(n,)": ("row", "column"),
    "(1, 1, ...)": ("row", "column"),
    "(n, 1, ...)": ("row",),
    "(1, n)": ("column",),
    "(1, n, 1, ...)": ("column", "row"),
}


def decided(stored: Mapping[str, StoredShapes]) -> tuple[Mapping[str, Axis], tuple[str, ...]]:
    """The axes of open magnitudes that the file's others of the same form decide, by module.

    Also the modules whose axis remains open, as there are no others or they differ.
    """
    told: dict[str, set[Axis]] = {}
    for shapes in stored.values():
        if not shapes.is_open:
            told.setdefault(shapes.form, set()).update(shapes.axes[:1])
    opened = {module: told.get(s.form, set()) for module, s in stored.items() if s.is_open}
    axes = {module: next(iter(axes)) for module, axes in opened.items() if len(axes) == 1}
    return axes, tuple(module for module in opened if module not in axes)
