"""Find the parts of a merge that change nothing, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from loratools.deltas import keys_of
from loratools.idle import NO_PRODUCT
from loratools.io.dtypes import torch_name
from loratools.merging.plan import Change, MergePlan, PlannedTensor
from loratools.merging.replacement import is_the_base
from loratools.merging.touched import sum_of

if TYPE_CHECKING:
    from loratools.merging.touched import Kept


@final
@dataclass(frozen=True)
class Idle:
    """A part of an adapter that leaves a tensor as it is in the base.

    Attributes:
        name: the tensor's name in the output.
        target: the adapter's name for what the part changes, if it has several in this tensor.
        keys: the adapter tensors that the part is made of, each as `adapter number: key`, without
            those that change another tensor, as a fused update may.
        reason: why the part changes nothing.
    """

    name: str
    keys: tuple[str, ...]
    reason: str
    target: str | None = None

    @property
    def label(self) -> str:
        """The tensor and, if the adapter has several parts in it, which one this is."""
        return self.name if self.target is None else f"{self.target} in {self.name}"


def idle_parts(plan: MergePlan, measured: "Mapping[str, Kept]") -> Iterator[Idle]:
    """The parts that change nothing, in the order of the output's tensors.

    `measured` is what a finished merge has measured of each tensor. If it is empty, as for a plan,
    no update is found to be lost to rounding, or to give the values that the weight has already.
    """
    applied: dict[str, list[str]] = {}
    for key in plan.accounting.applied:
        applied.setdefault(key.partition(": ")[2], []).append(key)
    reasons = {
        tensor.name: [
            _reason(tensor, number, measured.get(tensor.name))
            for number in range(len(tensor.changes))
        ]
        for tensor in plan.changed
    }
    at_work = {
        key
        for tensor in plan.changed
        for change, reason in zip(tensor.changes, reasons[tensor.name], strict=True)
        if reason is None
        for key in _keys(change)
    }
    for tensor in plan.changed:
        if not tensor.changes and _is_as_before(tensor):
            keys = tuple(key for name in tensor.origin.keys for key in applied.get(name, ()))
            yield Idle(tensor.name, keys, "the base has the same tensor")
        for number, change in enumerate(tensor.changes):
            if (reason := reasons[tensor.name][number]) is not None:
                keys = tuple(key for key in _keys(change) if key not in at_work)
                yield Idle(tensor.name, keys, reason, _one_of_several(tensor, change))


def unmoved(plan: MergePlan, idle: Sequence[Idle]) -> frozenset[str]:
    """The names of the tensors that stay as in the base because all their changes are idle."""
    counts: dict[str, int] = {}
    for part in idle:
        counts[part.name] = counts.get(part.name, 0) + 1
    return frozenset(
        tensor.name
        for tensor in plan.changed
        if tensor.name in counts
        and counts[tensor.name] >= len(tensor.changes)
        and (tensor.origin is tensor.base or not tensor.changes)
    )


def _keys(change: Change) -> tuple[str, ...]:
    """The adapter tensors that a change is made of, each as `adapter number: key`."""
    return tuple(f"{change.adapter}: {key}" for key in keys_of(change.delta))


def _one_of_several(tensor: PlannedTensor, change: Change) -> str | None:
    """The target of a change if its adapter has another one in the same tensor; else None."""
    targets = {other.target for other in tensor.changes if other.adapter == change.adapter}
    return change.target if len(targets) > 1 else None


def _reason(tensor: PlannedTensor, number: int, measured: "Kept | None") -> str | None:
    change, kept = tensor.changes[number], measured or {}
    if change.strength == 0:
        return "the weight is 0, as asked"
    # A change that moved rows of its own need not be read again.
    if (number,) in kept and kept[number,].moved:
        return None
    if (reason := change.delta.nothing()) is not None:
        return reason
    fidelity = sum_of(kept, number)
    if fidelity is None or fidelity.moved:
        return None
    if fidelity.intended:
        return f"all of it is lost to rounding to {torch_name(tensor.dtype)}"
    if any(number in numbers for numbers in kept if len(numbers) > 1):
        return "the updates of this weight take each other back"
    is_additive = change.delta.additive is not None
    return NO_PRODUCT if is_additive else "the weight has these numbers already"


def _is_as_before(tensor: PlannedTensor) -> bool:
    """Whether a replaced tensor is the base's: in its bytes, or once rounded to its dtype."""
    base, origin = tensor.base, tensor.origin
    if base is None or base.name != tensor.name:
        return False
    # A tensor of another dtype is not compared if the base's is converted too.
    return base.dtype in {origin.dtype, tensor.dtype} and is_the_base(origin, base)
