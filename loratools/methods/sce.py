"""SCE (Wan et al., 2024, arXiv:2408.07990): select, calculate, erase.

Select the entries in which the updates τₜ differ most, by their variance over the adapters;
calculate ηₜ = Σ τₜ² / Σₛ Σ τₛ² over the selected entries; erase those entries of τₜ whose sign is
not that of Σₛ τₛ. Then dW is λ · the mean of the remaining τₜ, weighted by ηₜ, entry by entry.
Every τₜ is an update times its adapter's weight.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import scaled_weights, total
from loratools.methods._stack import Cut, Stack, cut, share_of

OPTIONS: tuple[str, ...] = ("select_topk", "lam")
LOW_RANK = False
#: The default: the paper's 10 %.
SELECT_TOPK = 0.1


def combine(task: Task, options: MethodOptions) -> Tensor:
    """Combine the selected entries; those outside of the selection are zero."""
    stack = Stack.of(task)
    # The variance over a single adapter is zero everywhere and selects nothing, so all are kept.
    share = 1.0 if len(task.weights) == 1 else options.select_topk or SELECT_TOPK
    variance = partial(_variance, weights=task.weights)
    selection = cut(stack, variance, share_of(stack, share))
    coefficients = _coefficients(stack, selection, task.weights)
    factors = scaled_weights(task, options)

    def merged(position: int, blocks: Sequence[Tensor]) -> Tensor:
        mask = selection.among(variance(blocks), position)
        selected = [block * mask * w for block, w in zip(blocks, factors, strict=True)]
        return _erased(selected, coefficients)

    return stack.changed(merged)


def _variance(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    weighted = [block * weight for block, weight in zip(blocks, weights, strict=True)]
    mean = total(weighted) / len(weighted)
    return total([(block - mean).square() for block in weighted])


def _coefficients(stack: Stack, selection: Cut, weights: Sequence[float]) -> list[float]:
    """The share of each update in the energy of the selected entries, summed in float64."""
    energies = torch.zeros(len(weights), dtype=torch.float64)
    for position, blocks in stack.blocks():
        mask = selection.among(_variance(blocks, weights), position)
        norms = [torch.linalg.vector_norm(each * mask, dtype=torch.float64) for each in blocks]
        energies += torch.stack(norms).cpu().square()
    energies *= torch.tensor(weights, dtype=torch.float64).square()
    shares: list[float] = (energies / (energies.sum() or 1.0)).tolist()
    return shares


def _erased(blocks: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """The weighted mean, entry by entry, of the values with the sign of the sum; 0 if that is 0."""
    sign = total(blocks).sign_()
    added, weight = torch.zeros_like(sign), torch.zeros_like(sign)
    for block, coefficient in zip(blocks, coefficients, strict=True):
        agreeing = (block * sign).clamp_(min=0)
        added.add_(agreeing, alpha=coefficient)
        weight.add_(agreeing.sign_(), alpha=coefficient)
    return torch.where(weight > 0, added / weight, 0.0).mul_(sign)
