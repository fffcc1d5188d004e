"""Ways to combine the updates of one weight: a file a method, with its paper and its formula.

A method is a module with `OPTIONS`, the names of the fields of `MethodOptions` that it takes,
`LOW_RANK`, whether its results have no more than the ranks of all updates together, and
`combine(task, options)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

from loratools.errors import LoratoolsError

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.lowrank.factored import Factored

    #: Coefficients of the updates, where the result is a weighted sum of them; factors of it; or
    #: the matrix itself.
    Combined = tuple[float, ...] | Factored | Tensor


@final
@dataclass(frozen=True, eq=False)
class Task:
    """The updates of one weight, m × n each, in the order of the adapters.

    An adapter that does not change the weight is not among them.

    Attributes:
        target: the weight, for messages.
        weights: finite numbers.
        read: reads the updates.
        seed: for random choices; another one for every weight.
    """

    target: str
    weights: tuple[float, ...]
    read: "Callable[[], tuple[Factored, ...]]"
    seed: int

    @cached_property
    def updates(self) -> "tuple[Factored, ...]":
        """The updates in float64, each with its scaling and without its weight."""
        return self.read()


@final
@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What a method can be told; the names are the field's. None stands for its default."""

    density: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.density is not None and not 0 < self.density <= 1:
            raise LoratoolsError(f"density is a share above 0 and at most 1, not {self.density!r}")
