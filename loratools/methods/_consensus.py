"""Steps that several methods share: scaled weights, sums of matrices, and the election of signs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from loratools.errors import OptionError
from loratools.methods import MethodOptions, Task


def scaled_weights(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The adapters' weights times the factors of the result: its strength and lambda."""
    scale = task.strength * (1.0 if options.lam is None else options.lam)
    return tuple(weight * scale for weight in task.weights)


def summed_weights(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The scaled weights of a sum or, with `normalize`, of a mean.

    Raises:
        OptionError: a mean is wanted, and the weights add up to zero.
    """
    divisor = math.fsum(task.weights) if options.normalize else 1.0
    if not divisor:
        raise OptionError(f"weights {list(task.weights)} add up to 0, and have no mean")
    return tuple(weight / divisor for weight in scaled_weights(task, options))


def total(blocks: Sequence[Tensor]) -> Tensor:
    """The sum of blocks, entry by entry."""
    result = blocks[0].clone()
    for block in blocks[1:]:
        result += block
    return result


def elected(blocks: Sequence[Tensor], options: MethodOptions) -> Tensor:
    """The disjoint mean of TIES: entry by entry, the mean of the values with the elected sign.

    The sign with the larger sum of values is elected, or, by `frequency`, the more frequent one.
    Where neither is, the result is zero. Without `normalize`, it is a sum instead of a mean.
    """
    by_frequency = options.majority_sign_method == "frequency"
    votes = [block.sign() for block in blocks] if by_frequency else blocks
    sign = total(votes).sign_()
    added, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for block in blocks:
        agreeing = (block * sign).clamp_(min=0)
        added += agreeing
        count += agreeing.sign_()
    if options.normalize is not False:
        added /= count.clamp_(min=1)
    return added.mul_(sign)
