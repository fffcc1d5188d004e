"""Adapters in memory, and what they do to a weight, in float64."""

from collections.abc import Mapping

import torch
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.diff import Diff
from loratools.deltas.lora import LoRA, Rule, Scaling
from loratools.io.source import Held
from loratools.parts import Filed, Provenance, ReplacedRows, Replacement, Update
from tests.merging.computing import DTYPES


def adapter(
    updates: Mapping[str, Delta],
    *,
    where: str = "one",
    replaced: Mapping[str, Replacement] | None = None,
    rows: Mapping[str, ReplacedRows] | None = None,
    format: str = "peft",
) -> Adapter:
    return Adapter(
        where=where,
        updates={target: Update(delta) for target, delta in updates.items()},
        replaced=replaced or {},
        rows=rows or {},
        copies=(),
        inert={},
        provenance=Provenance(),
        notes=(),
        companions=(),
        nbytes=0,
        filed=Filed(format),
    )


def lora(
    seed: int,
    shape: tuple[int, ...] = (20, 30),
    rank: int = 4,
    alpha: float = 8.0,
    rule: Rule = "rank",
    dtype: str = "F32",
) -> LoRA:
    generator = torch.Generator().manual_seed(seed)
    columns = int(torch.tensor(shape[1:]).prod())
    up = torch.randn(shape[0], rank, generator=generator).to(DTYPES[dtype])
    down = torch.randn(rank, columns, generator=generator).to(DTYPES[dtype])
    scaling = Scaling(alpha, rank, rule, "config")
    return LoRA(Held("up", up, dtype), Held("down", down, dtype), scaling, shape)


def bias(*values: float, alpha: float = 1.0) -> Diff:
    return Diff(Held("bias", torch.tensor(values), "F32"), Scaling(alpha, 1, "rank", "config"))


def dense(delta: Delta) -> Tensor:
    """The change as a matrix, or as a vector."""
    if isinstance(delta, Diff):
        return delta.scaling.value * delta.values.read().double()
    lora = delta.low_rank
    assert lora is not None
    return lora.scaling.value * lora.up.read().double() @ lora.down.read().double()


def whole(values: object, *, trained: bool = True) -> Replacement:
    return Replacement(Held("whole", torch.tensor(values), "F32"), is_trained=trained)
