"""Compares an adapter with a base: which of its weights it changes, and whether the two merge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from loratools.adapter import Adapter
from loratools.errors import LoratoolsError
from loratools.io.checkpoint import Checkpoint
from loratools.merging.plan import MergeOptions, MergePlan
from loratools.merging.planner import plan_merge
from loratools.names.averaged import is_averaged
from loratools.names.bases import another_base
from loratools.names.grouping import pattern_of
from loratools.names.matching import BaseNames
from loratools.names.packed import packed_in
from loratools.names.tied import find_tied_head


@final
@dataclass(frozen=True)
class Coverage:
    """The part of a base that an adapter changes, and whether the two can be merged.

    Attributes:
        base: the name of the base.
        touched: the number of the base's matrices that the adapter changes.
        matrices: the number of all matrices of the base.
        untouched: the number of matrices that no update changes, by pattern of their names.
        refusal: the error of merging them, if it is refused.
        accounting: the numbers of the adapter's tensors that are applied, and of all.
        tied: whether the base's embedding and head are one tensor.
        another_base: a note if the adapter names another base.
        recognised: the models of the base and whose names they have, in words, if they are known.
        packed: the number of weights that the base stores packed, by format; empty if it is
            refused.
        files: remarks on which of the base's files were read.
    """

    base: str
    touched: int
    matrices: int
    untouched: Mapping[str, int]
    refusal: str | None
    accounting: Mapping[str, int]
    tied: bool
    another_base: str | None
    recognised: str | None = None
    packed: Mapping[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def cover(adapter: Adapter, base: Checkpoint) -> tuple[Coverage, MergePlan | None]:
    """Find the part of `base` that `adapter` changes; return it with the plan of their merge.

    The plan is None if the merge is refused.
    """
    shapes = {name: stored.shape for name, stored in base.tensors.items()}
    recognised = BaseNames({**shapes, **packed_in(base).shapes}).words
    known = (
        find_tied_head(base.tensors, base.config) is not None,
        another_base(adapter, base),
        recognised,
    )
    try:
        plan = plan_merge(base, [adapter], [1.0], MergeOptions())
    except LoratoolsError as error:
        return Coverage(base.where, 0, 0, {}, str(error), {}, *known, {}, base.notes), None
    touched = {tensor.name for tensor in plan.changed}
    packed = plan.packed
    matrices = [
        name
        for name, stored in base.tensors.items()
        if len(stored.shape) > 1 and not packed.holds(name) and not is_averaged(name)
    ]
    # Those of a packed weight are its parts: it counts as the one matrix that it stands for.
    matrices += [name for name in packed.weights if len(packed.shapes.get(name, (0, 0))) > 1]
    untouched: dict[str, int] = {}
    for name in matrices:
        if name not in touched:
            untouched[pattern_of(name)] = untouched.get(pattern_of(name), 0) + 1
    accounting = {"applied": len(plan.accounting.applied), "adapter_tensors": plan.accounting.total}
    count = sum(name in touched for name in matrices)
    counts = {format_: weights for format_, (weights, _) in packed.counts.items()}
    coverage = Coverage(
        base.where, count, len(matrices), untouched, None, accounting, *known, counts, base.notes
    )
    return coverage, plan
