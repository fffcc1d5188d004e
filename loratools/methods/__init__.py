"""Ways to combine the updates of one weight: a file a method, with its paper and its formula.

A method is a module with `OPTIONS`, the names of the fields of `MethodOptions` that it takes,
`LOW_RANK`, whether its results have no more than the ranks of all updates together, and
`combine(task, options)`. What a weight is multiplied with is the update that a method gets to see:
to combine with a weight of 2 is to combine an adapter of twice the strength.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Literal, final

from loratools.errors import NonFiniteError, OptionError, shorten

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from loratools.lowrank.factored import Factored

    #: Coefficients of the updates, where the result is a weighted sum of them; factors of it; or
    #: the matrix itself.
    Combined = tuple[float, ...] | Factored | Tensor


@final
@dataclass(frozen=True, eq=False)
class Task:
    """The updates of one weight, m × n each, one of every adapter and in their order.

    That of an adapter that does not change the weight has rank 0.

    Attributes:
        target: the weight, for messages.
        weights: finite numbers.
        read: reads the updates.
        seed: for random choices; another one for every weight.
        strength: what the result is multiplied with, beside lambda.
        device: where matrices are computed with; the CPU if None.
    """

    target: str
    weights: tuple[float, ...]
    read: "Callable[[], tuple[Factored, ...]]"
    seed: int
    strength: float = 1.0
    device: "torch.device | None" = None

    @cached_property
    def updates(self) -> "tuple[Factored, ...]":
        """The updates in float64, each with its scaling and without its weight.

        Raises:
            NonFiniteError: a factor holds a NaN or an infinity.
        """
        updates = self.read()
        if not all(each.up.isfinite().all() and each.down.isfinite().all() for each in updates):
            raise NonFiniteError(f"{shorten(self.target)}: holds a NaN or an infinity")
        return updates


@final
@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What a method can be told; the names are the field's. None stands for its default.

    Attributes:
        density: the share of entries that are kept, or the probability to keep one.
        gamma: the share of the largest entries that are removed.
        epsilon: by how much the probabilities to keep an entry differ.
        rescale: whether what is kept at random is divided by the probability to keep it.
        majority_sign_method: whether values (`total`) or their signs (`frequency`) are added up.
        normalize: whether the result is a mean instead of a sum.
        lam: what the result is multiplied with; `--lambda` on the command line.
        select_topk: the share of entries, those that differ most, that are combined at all.
        t: how far the way is gone from the first update to the second.
    """

    density: float | None = None
    gamma: float | None = None
    epsilon: float | None = None
    rescale: bool | None = None
    majority_sign_method: Literal["total", "frequency"] | None = None
    normalize: bool | None = None
    lam: float | None = None
    select_topk: float | None = None
    t: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("density", "select_topk"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise OptionError(f"{name} is a share above 0 and at most 1, not {share!r}")
        for name in ("gamma", "epsilon"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise OptionError(f"{name} is a share from 0 to below 1, not {share!r}")
        if self.t is not None and not 0 <= self.t <= 1:
            raise OptionError(f"t is a number from 0 to 1, not {self.t!r}")
        if self.lam is not None and not math.isfinite(self.lam):
            raise OptionError(f"lambda is a finite number, not {self.lam!r}")
        if self.majority_sign_method not in (None, "total", "frequency"):
            raise OptionError(
                f"majority_sign_method is total or frequency, not {self.majority_sign_method!r}"
            )


def check_options(method: str, taken: Sequence[str], options: MethodOptions) -> None:
    """Refuse what a method does not take; `taken` is its `OPTIONS`.

    Raises:
        OptionError: an option is given that would have no effect.
    """
    for field in fields(options):
        if getattr(options, field.name) is not None and field.name not in taken:
            known = f"it takes {', '.join(taken)}" if taken else "it takes no options"
            raise OptionError(f"{method} takes no {field.name}; {known}")
