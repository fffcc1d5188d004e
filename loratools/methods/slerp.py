"""Spherical interpolation of two updates (Shoemake, 1985, doi:10.1145/325334.325242).

dW = sin((1-t)Ω)/sin Ω · w₁·dW₁ + sin(tΩ)/sin Ω · w₂·dW₂, with Ω the angle between w₁·dW₁ and
w₂·dW₂ as vectors. It is a weighted sum of the updates, so the factors of the result are exact.
"""

import math

import torch

from loratools.errors import OptionError
from loratools.lowrank.factored import Factored, product_norm
from loratools.methods import MethodOptions, Task
from loratools.methods._consensus import scaled_weights

OPTIONS: tuple[str, ...] = ("t", "lam")
LOW_RANK = True
#: Below this sine of Ω, both coefficients equal those of linear interpolation up to rounding.
_STRAIGHT = 1e-8


def combine(task: Task, options: MethodOptions) -> tuple[float, ...]:
    """The coefficients of the two updates.

    They are those of linear interpolation if an update is zero, or if both have the same direction
    or opposite ones, between which there is no single shortest path.

    Raises:
        OptionError: there are more than two adapters.
    """
    weights = scaled_weights(task, options)
    if len(weights) == 1:
        return weights
    if len(task.weights) > 2:
        raise OptionError(
            f"slerp goes from one adapter to another, and {len(task.weights)} are given"
        )
    t = 0.5 if options.t is None else options.t
    pairs = zip(task.updates, task.weights, strict=True)
    angle = _angle(*(_unit(update, weight) for update, weight in pairs))
    first, second = 1 - t, t
    if math.sin(angle) > _STRAIGHT:
        first, second = (math.sin(share * angle) / math.sin(angle) for share in (first, second))
    return first * weights[0], second * weights[1]


def _unit(update: Factored, weight: float) -> Factored:
    """The update times its weight, divided by its norm; zero for a zero update."""
    norm = product_norm(update) if weight else 0.0
    return Factored(update.up * (math.copysign(1, weight) / norm if norm else 0.0), update.down)


def _angle(one: Factored, other: Factored) -> float:
    """The angle between two matrices of norm 1, accurate for small angles too; 0 if one is zero.

    Kahan's formula: 2 atan2(‖one - other‖, ‖one + other‖).
    """
    if not (one.up.any() and other.up.any()):
        return 0.0
    down = torch.cat([one.down, other.down])
    difference = Factored(torch.cat([one.up, -other.up], 1), down)
    added = Factored(torch.cat([one.up, other.up], 1), down)
    return 2 * math.atan2(product_norm(difference), product_norm(added))
