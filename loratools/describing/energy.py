"""Measures how much of an adapter is in each block of its model, so that weights can be chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.errors import NonFiniteError
from loratools.io.blocks import block_rows, rows_of, spans
from loratools.names.blocks import block_of, position
from loratools.reshaping.factors import sum_of

if TYPE_CHECKING:
    from loratools.running.share import Map


@final
@dataclass(frozen=True)
class BlockEnergy:
    """The size of all updates in one block; None where a number of them is not finite.

    Attributes:
        block: the name of the block: `IN04`, `B12`, or `BASE` for what is in none.
        targets: the number of updates.
        norm: the Frobenius norm of all its updates as one matrix, √Σ‖ΔW‖².
        share: the block's share of Σ‖ΔW‖² over the whole adapter.
        relative: `norm` divided by the same norm of the weights that are changed; None without a
            base.
    """

    block: str
    targets: int
    norm: float | None
    share: float | None
    relative: float | None = None


def block_energies(
    adapter: Adapter, weights: Mapping[str, float], each: "Map" = map
) -> tuple[BlockEnergy, ...]:
    """The energy of every block in the order of blocks, computed from the stored tensors.

    For kinds that hold a LoRA besides other parts, as DoRA does, it is that of the LoRA. `weights`
    are the norms of the base's weights by target, to compare with; none without a base.
    """
    deltas = [update.delta for update in adapter.updates.values()]
    norms = dict(zip(adapter.updates, each(_norm, deltas), strict=True))
    whole = math.hypot(*norms.values())
    by_block: dict[str, list[str]] = {}
    for target in norms:
        by_block.setdefault(block_of(target), []).append(target)
    ordered = sorted(by_block.items(), key=lambda item: position(item[0]))
    return tuple(_energy(block, targets, norms, whole, weights) for block, targets in ordered)


def _energy(
    block: str,
    targets: Sequence[str],
    norms: Mapping[str, float],
    whole: float,
    weights: Mapping[str, float],
) -> BlockEnergy:
    norm = math.hypot(*(norms[target] for target in targets))
    if not math.isfinite(norm):
        return BlockEnergy(block, len(targets), None, None)
    share = (norm / whole) ** 2 if whole and math.isfinite(whole) else None
    changed = math.hypot(*(weights[target] for target in targets if target in weights))
    is_relative = changed and math.isfinite(changed)
    return BlockEnergy(block, len(targets), norm, share, norm / changed if is_relative else None)


def _norm(delta: Delta) -> float:
    """The Frobenius norm of an update; NaN if a number is not finite, or it cannot be measured."""
    lora = delta.factored()
    if lora is not None:
        try:
            return float(sum_of([(1.0, lora)]).values().norm())
        except NonFiniteError:
            return math.nan
    additive = delta.additive
    if additive is None:
        return math.nan
    pieces = spans(0, rows_of(delta.shape), block_rows(delta.shape))
    return math.hypot(*(float(additive.dense_rows(*piece).norm()) for piece in pieces))
