"""Methods that combine the updates of one weight: each in its own file, with paper and formula.

A method is a module with three names. `OPTIONS` lists the fields of `MethodOptions` that it takes.
`LOW_RANK` says whether the rank of its results is at most the sum of the ranks of all updates.
`combine(task, options)` computes a result. A method sees each update multiplied with the adapter's
weight: to combine an adapter with a weight of 2 is to combine one of twice the strength.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Literal, final

from loratools.arguments import checked_fields
from loratools.checks import check_choice, percent_meant
from loratools.errors import NonFiniteError, OptionError, shorten
from loratools.showing.shown import Brief
from loratools.typed import as_typed, valued

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from loratools.lowrank.factored import Factored

    #: The result of a method: coefficients of the updates, if it is a weighted sum of them; factors
    #: of the result; or the result as a matrix.
    Combined = tuple[float, ...] | Factored | Tensor


@final
@dataclass(frozen=True, eq=False)
class Task:
    """The updates of one weight, each m × n, one from every adapter in the adapters' order.

    An adapter that does not change the weight has an update of rank 0.

    Attributes:
        target: the name of the weight that is updated, for messages.
        weights: the adapters' weights in the combination, finite numbers.
        read: a function that reads the updates.
        seed: the seed of random choices, another one for every target.
        strength: a factor of the result, in addition to lambda.
        device: the device on which matrices are computed; the CPU if None.
    """

    target: str
    weights: tuple[float, ...]
    read: "Callable[[], tuple[Factored, ...]]"
    seed: int
    strength: float = 1.0
    device: "torch.device | None" = None

    @cached_property
    def updates(self) -> "tuple[Factored, ...]":
        """The updates in float64, each with its adapter's scaling, but without its weight.

        Raises:
            NonFiniteError: a factor holds a NaN or an infinity.
        """
        updates = self.read()
        if not all(each.up.isfinite().all() and each.down.isfinite().all() for each in updates):
            raise NonFiniteError(
                f"{shorten(self.target)}: holds a NaN or an infinity", tensor=self.target
            )
        return updates


@checked_fields
@final
@dataclass(frozen=True, kw_only=True, repr=False)
class MethodOptions(Brief):
    """The options of all methods, by the names that papers and other tools use.

    None stands for the default of the method.

    Attributes:
        density: keep this share of the entries of each update, above 0 and at most 1; or each entry
            with this probability.
        gamma: remove this share of the entries, the largest ones; from 0 to below 1.
        epsilon: the difference between the largest and the smallest probability of keeping an
            entry; from 0 to below 1.
        rescale: divide entries that are kept at random by the probability of keeping them.
        majority_sign_method: elect the sign of each entry by the sum of the values, or of their
            signs: `total` or `frequency`.
        normalize: write a mean of the updates instead of their sum.
        lam: multiply the result by this; `--lambda` on the command line.
        select_topk: combine this share of the entries, those that differ most; all others are zero.
        t: how far to go from the first adapter (0) to the second (1).

    Example:
        >>> import loratools
        >>> options = loratools.MethodOptions(density=0.5, normalize=False)
        >>> combination = loratools.Combination(method="ties", options=options)
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
        """Check that each option is in its range."""
        check_choice(
            as_typed("majority_sign_method"), self.majority_sign_method, ("total", "frequency")
        )
        for name in ("density", "select_topk"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise OptionError(
                    f"{as_typed(name)} is a share above 0 and at most 1, not {share!r}",
                    hint=percent_meant(share),
                )
        for name in ("gamma", "epsilon"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise OptionError(
                    f"{as_typed(name)} is a share from 0 to below 1, not {share!r}",
                    hint=percent_meant(share),
                )
        if self.t is not None and not 0 <= self.t <= 1:
            raise OptionError(f"{as_typed('t')} is a number from 0 to 1, not {self.t!r}")
        if self.lam is not None and not math.isfinite(self.lam):
            raise OptionError(f"{as_typed('lam')} is a finite number, not {self.lam!r}")


def check_options(method: str, options: MethodOptions, taken: Mapping[str, Sequence[str]]) -> None:
    """Refuse options that a method does not take; `taken` has the `OPTIONS` of each method.

    Raises:
        OptionError: an option is given that would have no effect.
    """
    for field in fields(options):
        if getattr(options, field.name) is not None and field.name not in taken[method]:
            known = f"it takes {', '.join(map(as_typed, taken[method])) or 'no options'}"
            others = ", ".join(name for name, own in taken.items() if field.name in own)
            given = as_typed(field.name)
            raise OptionError(
                f"{method} takes no {given}",
                hint=f"{known}, and {given} is for {valued('method')} {others}",
            )
