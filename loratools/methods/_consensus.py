"""What several methods do with matrices that are sparse, or scaled: add them, or elect signs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from loratools.errors import OptionError
from loratools.methods import MethodOptions, Task


def scaled_weights(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The weights times what the result is multiplied with."""
    scale = task.strength * (1.0 if options.lam is None else options.lam)
    return tuple(weight * scale for weight in task.weights)


def summed_weights(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The scaled weights of a sum, or of a mean.

    Raises:
        OptionError: there is no mean, because the weights add up to zero.
    """
    divisor = math.fsum(task.weights) if options.normalize else 1.0
    if not divisor:
        raise OptionError(f"weights {list(task.weights)} add up to 0, and have no mean")
    return tuple(weight / divisor for weight in scaled_weights(task, options))


def total(blocks: Sequence[Tensor]) -> Tensor:
    """The sum."""
    result = blocks[0].clone()
    for block in blocks[1:]:
        result += block
    return result


def elected(blocks: Sequence[Tensor], options: MethodOptions) -> Tensor:
    """The disjoint mean of TIES: of those that have the elected sign; zero where none is elected.

    The sign with the larger sum of values is elected, or, by `frequency`, the more frequent one.
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
