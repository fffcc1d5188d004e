"""Turns changes that depend on their weight into additive low-rank updates for one base."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from loratools.adapter import Adapter
from loratools.deltas.placed import alone
from loratools.errors import UnsupportedError, shorten
from loratools.io.checkpoint import Checkpoint
from loratools.io.source import forget_rows
from loratools.lowrank.seeds import seed_of
from loratools.merging.plan import Change, MergeOptions, PlannedTensor
from loratools.merging.planner import plan_merge
from loratools.reshaping.approximation import Decomposed, approximate, of_matrix
from loratools.reshaping.factors import widest
from loratools.running.share import Map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from loratools.lowrank.dense import Leading
    from loratools.lowrank.ranks import RankRule, Wanted
    from loratools.lowrank.row_blocks import RowBlocks
    from loratools.lowrank.truncation import Truncation


@final
@dataclass(frozen=True)
class Additive:
    """An adapter with additive updates only, and certificates of the updates that were replaced."""

    adapter: Adapter
    truncations: "Mapping[str, Truncation]"


@final
@dataclass(frozen=True)
class _Effect:
    """The effect of one change on its weight."""

    target: str
    tensor: PlannedTensor
    change: Change

    @property
    def matrix(self) -> "RowBlocks":
        """The changed weight minus the original one, in float64, read in blocks of rows."""
        from loratools.io.blocks import rows_of
        from loratools.lowrank.row_blocks import RowBlocks

        shape = self.tensor.shape
        return RowBlocks((rows_of(shape), math.prod(shape[1:])), self._blocks)

    def decomposed(self, found: "Leading") -> Decomposed:
        """The effect's leading part, with factors in a dtype that holds the change's tensors."""
        dtype = widest([source.dtype for source in self.change.delta.sources])
        return of_matrix(found, self.tensor.shape, dtype)

    def _blocks(self) -> "Iterator[tuple[int, Tensor]]":
        from loratools.io.blocks import read_block, rows_of
        from loratools.io.rounding import Rounding
        from loratools.merging.edit import edited_blocks

        planned = replace(self.tensor, dtype="F64", changes=(self.change,))
        rows = rows_of(self.tensor.shape)
        # The merge's own code computes the changed weight, so the effect is that of a merge; with
        # F64 as the dtype of the output, the result is not rounded.
        for begin, after, _ in edited_blocks(planned, 0, rows, Rounding()):
            yield begin, after - read_block(self.tensor.origin, begin, begin + len(after)).double()


def _effect(adapter: Adapter, tensor: PlannedTensor, change: Change) -> _Effect:
    """The effect on the rows that the change sees, which may be some of a fused weight.

    Raises:
        UnsupportedError: the update is of several weights, each of which gets a part of it.
    """
    update = adapter.updates[change.target].delta
    if change.delta is update:
        return _Effect(change.target, tensor, change)
    delta, origin = alone(change.delta, tensor.origin)
    if math.prod(delta.shape) < math.prod(update.shape):
        raise UnsupportedError(
            f"{adapter.where}: {shorten(change.target)}: {delta.kind} depends on weights that are "
            f"apart in the base, such as {shorten(tensor.name)}, and is one for all of them",
            tensor=change.target,
        )
    return _Effect(change.target, replace(tensor, origin=origin), replace(change, delta=delta))


def needs_base(adapter: Adapter) -> bool:
    """Whether an adapter has an update that depends on the weight it changes."""
    return any(update.delta.additive is None for update in adapter.updates.values())


def additive(adapter: Adapter, base: Checkpoint, rule: "RankRule", each: Map = map) -> Additive:
    """Replace updates that are not additive by best approximations of their effect on `base`.

    The effect of a DoRA is of full rank, so something is lost, and the certificates say how much.

    Raises:
        LoratoolsError: the adapter cannot be merged into the base.
    """
    from loratools.lowrank.dense import leading

    plan = plan_merge(base, [adapter], [1.0], MergeOptions())
    effects = [
        _effect(adapter, tensor, change)
        for tensor in plan.changed
        for change in tensor.changes
        if change.delta.additive is None and change.target in adapter.updates
    ]

    by_target = {effect.target: effect for effect in effects}

    def decompose(question: "tuple[str, Wanted]") -> Decomposed:
        target, wanted = question
        found = leading(by_target[target].matrix, wanted, seed=seed_of(0, target))
        weight = by_target[target].tensor
        forget_rows(weight.origin, 0, weight.shape[0])
        return by_target[target].decomposed(found)

    shapes = {target: effect.matrix.shape for target, effect in by_target.items()}
    found = approximate(shapes, decompose, rule, each)
    updates = dict(adapter.updates)
    for target, lora in found.updates.items():
        is_transposed = by_target[target].change.is_transposed
        delta = lora.transposed() if is_transposed else lora
        updates[target] = replace(updates[target], delta=delta)
    return Additive(replace(adapter, updates=updates), found.truncations)
