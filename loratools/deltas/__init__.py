"""Changes to one weight: a file a parametrisation, with its formula and its paper.

A weight is seen as a matrix, its first dimension by all others, and worked on in blocks of rows.
Additive changes commute; weight-dependent ones act on the weight as the changes before left it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, final

from loratools.errors import FormatError, UnsupportedError
from loratools.io.dtypes import FACTORS
from loratools.io.source import Source, stored_elements

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from loratools.deltas.lora import LoRA

#: Changes a block of rows in place; the number is the index of the block's first row.
Apply = Callable[["Tensor", int], None]


@final
@dataclass(frozen=True)
class Span:
    """The rows `begin` to `end` of a weight, to be computed in `dtype`.

    `blocks` iterates over the *whole* weight as it is before the change, as fresh blocks with the
    index of their first row: for kinds that need to see all of it.
    """

    begin: int
    end: int
    dtype: "torch.dtype"
    blocks: Callable[[], Iterator[tuple[int, "Tensor"]]]


class Delta(Protocol):
    """A change to a weight of shape `shape`."""

    #: Whether the change is a matrix that does not depend on the weight, so that changes add up.
    additive: ClassVar[bool]

    @property
    def kind(self) -> str:
        """What people call it: LoRA, DoRA and so on."""
        ...

    @property
    def sources(self) -> tuple[Source, ...]:
        """The tensors it is made of."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes."""
        ...

    @property
    def by_rows(self) -> bool:
        """Whether a block of rows can be changed without seeing the others."""
        ...

    @property
    def low_rank(self) -> "LoRA | None":
        """The low-rank update in it, None where it has none."""
        ...

    def nothing(self) -> str | None:
        """Why it changes no weight, whatever the weight; None where it may change one.

        Numbers are read up to the first that is not zero.
        """
        ...

    def transposed(self) -> Self:
        """The same change to a weight that is stored as (fan_in, out)."""
        ...

    def bind(self, span: Span, strength: float) -> Apply:
        """Read what the rows of `span` need, and return the function that changes their blocks.

        `strength` 0 leaves the weight as it is and 1 applies the change as it was trained.
        """
        ...


def check_stored(*sources: Source) -> None:
    """What every kind asks of the tensors it is made of, when it is made.

    Raises:
        FormatError: one has no elements.
        UnsupportedError: one is not stored as floats: it has an imaginary part that would be lost,
            or is made of codes, which mean nothing without their scales.
    """
    for source in sources:
        if source.dtype not in FACTORS:
            raise UnsupportedError(
                f"{source.keys[0]}: is stored as {source.dtype}; the tensors of an update are "
                f"floats of 8 to 64 bits"
            )
        if 0 in source.shape:
            raise FormatError(f"{source.keys[0]}: {list(source.shape)} has no elements")


def keys_of(delta: Delta) -> tuple[str, ...]:
    """The names of the stored tensors a change is made of, with that of its alpha."""
    alpha = delta.low_rank.scaling.source if delta.low_rank else None
    sources = delta.sources if alpha is None else (*delta.sources, alpha)
    return tuple(key for source in sources for key in source.keys)


def parameters_of(delta: Delta) -> int:
    """The number of elements stored for a change."""
    return sum(stored_elements(source) for source in delta.sources)
