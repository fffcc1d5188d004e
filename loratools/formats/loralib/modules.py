"""The factors of microsoft/LoRA's layers as updates.

A `Linear` has `lora_A` (rank, in) and `lora_B` (out, rank). A `MergedLinear` is a fused weight of
which some parts, of equal size, are updated: `lora_A` has the rows of each, (rank * parts, in), and
`lora_B` those of their outputs. A `Conv2d` with a kernel of k by k has (rank * k, in * k) and
(out * k, rank * k), whose product is seen in the shape of the weight.
"""

from functools import partial
from typing import TYPE_CHECKING

from loratools.deltas.lora import LoRA, Origin, Scaling
from loratools.deltas.stacked import Stacked
from loratools.errors import ShapeMismatchError, UnsupportedError
from loratools.formats._peft.tensors import spread
from loratools.io.computed import rearranged
from loratools.io.source import Source
from loratools.parts import Update
from loratools.typed import of_format

if TYPE_CHECKING:
    from torch import Tensor


def decoded(
    where: str, a: Source, b: Source, weight: Source | None, *, alpha: float | None, enabled: str
) -> Update:
    """The update of a layer; `weight` is the layer's own, if the file has it.

    `alpha` is None where the rank is taken for it. `enabled` says which parts of a fused weight are
    updated, `auto` or a digit for each.

    Raises:
        ShapeMismatchError: the factors do not fit each other or the weight.
        UnsupportedError: nothing says which parts of a fused weight are updated.
    """
    if len(a.shape) != 2 or len(b.shape) != 2 or not b.shape[1] or a.shape[0] % b.shape[1]:
        raise ShapeMismatchError(
            f"{where}: lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit: expected "
            f"(rank, in) and (out, rank)"
        )
    if weight is not None and len(weight.shape) > 2:
        return _convolution(where, a, b, weight, alpha)
    groups = a.shape[0] // b.shape[1]
    parts = _parts(where, groups, a, b, weight, enabled)
    up = b
    if len(parts) > 1:
        rows = b.shape[0] // groups * len(parts)
        up = rearranged(b, (rows, a.shape[0]), partial(spread, groups=groups, enabled=parts))
    shape = (up.shape[0], a.shape[1])
    if weight is not None and sorted(weight.shape) != sorted(shape):
        raise _unfit(where, a, b, weight)
    return Update(LoRA(up, a, _scaling(alpha, b.shape[1]), shape), fan_in_fan_out=False)


def _parts(
    where: str, groups: int, a: Source, b: Source, weight: Source | None, enabled: str
) -> tuple[bool, ...]:
    """Whether each part of a weight is updated; only one part for a weight that is not fused."""
    stated = tuple(digit == "1" for digit in enabled) if enabled != "auto" else ()
    count = _count(where, groups, a, b, weight)
    if stated and sum(stated) == groups and count in (None, len(stated)):
        # A layer with factors for one part may be fused or not: only its weight shows which.
        if groups > 1 or count is not None:
            return stated
    elif count not in (None, groups):
        verb = "is" if groups == 1 else "are"
        raise UnsupportedError(
            f"{where}: {groups} of {count} parts of a fused weight {verb} updated, and nothing "
            f"says which",
            hint=_say_which(),
        )
    if groups > 1 and b.shape[0] % groups:
        raise _unfit(where, a, b, weight)
    if groups > 1 and count is None:
        raise UnsupportedError(
            f"{where}: {groups} parts of a fused weight are updated, and nothing says of how many",
            hint=_say_which(),
        )
    return (True,) * groups


def _count(where: str, groups: int, a: Source, b: Source, weight: Source | None) -> int | None:
    """The number of parts of a weight, each as large as a part in `lora_B`; None without weight."""
    if weight is None:
        return None
    columns = a.shape[1]
    rows = weight.shape[1] if weight.shape[0] == columns else weight.shape[0]
    if len(weight.shape) != 2 or columns not in weight.shape or rows * groups % b.shape[0]:
        raise _unfit(where, a, b, weight)
    return rows * groups // b.shape[0]


def _convolution(where: str, a: Source, b: Source, weight: Source, alpha: float | None) -> Update:
    rows, columns, *kernel = weight.shape
    size = kernel[0]
    fits = (
        len(set(kernel)) == 1
        and (b.shape[0], a.shape[1]) == (rows * size, columns * size)
        and a.shape[0] == b.shape[1]
        and b.shape[1] % size == 0
        and len(kernel) == 2
    )
    if not fits:
        raise _unfit(where, a, b, weight)
    up = rearranged(b, (rows, size, b.shape[1]), partial(_in_stack, count=rows))
    down = rearranged(a, (1, *a.shape), partial(_in_stack, count=1))
    scaling = _scaling(alpha, b.shape[1] // size)
    return Update(Stacked(up, down, scaling, weight.shape))


def _in_stack(tensor: "Tensor", count: int) -> "Tensor":
    return tensor.reshape(count, -1, tensor.shape[1])


def _scaling(alpha: float | None, rank: int) -> Scaling:
    origin: Origin = "assumed" if alpha is None else "option"
    return Scaling(rank if alpha is None else alpha, rank, "rank", origin)


def _unfit(where: str, a: Source, b: Source, weight: Source | None) -> ShapeMismatchError:
    beside = "" if weight is None else f" do not fit the weight {list(weight.shape)}"
    return ShapeMismatchError(
        f"{where}: lora_A {list(a.shape)} and lora_B {list(b.shape)}{beside or ' do not fit'}"
    )


def _say_which() -> str:
    return f"say it with {of_format('enable_lora', '101')}, for the first and the last of three"
