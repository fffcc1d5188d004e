"""Weights changed in memory by the kernel of a merge."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loratools.deltas import Delta
from loratools.io.rounding import Rounding
from loratools.io.source import Held
from loratools.merging.edit import edited_blocks
from loratools.merging.fidelity import Fidelity
from loratools.merging.plan import Change, PlannedTensor

DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def changed(
    weight: Held,
    *changes: tuple[Delta, float],
    dtype: str | None = None,
    seed: int | None = None,
    cuts: Sequence[int] = (),
) -> Tensor:
    """The weight after the changes, each with its strength, in spans of rows that end at `cuts`."""
    return changed_and_measured(weight, *changes, dtype=dtype, seed=seed, cuts=cuts)[0]


def changed_and_measured(
    weight: Held,
    *changes: tuple[Delta, float],
    dtype: str | None = None,
    seed: int | None = None,
    cuts: Sequence[int] = (),
) -> tuple[Tensor, Fidelity]:
    planned = PlannedTensor(
        "weight",
        dtype or weight.dtype,
        None,
        weight,
        changes=tuple(
            Change(number, "weight", delta, strength, None, False)
            for number, (delta, strength) in enumerate(changes)
        ),
    )
    rows = weight.shape[0]
    pieces, total = [], Fidelity()
    for begin, end in zip([0, *cuts], [*cuts, rows], strict=True):
        for _, block, fidelity in edited_blocks(planned, begin, end, Rounding(seed)):
            pieces.append(block.clone())
            total += fidelity or Fidelity()
    return torch.cat(pieces).reshape(weight.shape), total


def computed_with(weight: Held, dtype: str | None = None) -> float:
    """The largest relative error of one operation of the kernel."""
    narrow = (dtype or weight.dtype) == "BF16" and weight.dtype in {"BF16", "F16"}
    return 2.0**-24 if narrow else 2.0**-53
