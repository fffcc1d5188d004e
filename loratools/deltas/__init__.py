"""Changes to one weight: a file a parametrisation, with its formula and its paper.

A weight is seen as a matrix, its first dimension by all others, and worked on in blocks of rows.
Additive changes commute; weight-dependent ones act on the weight as the changes before left it.

`Delta` is all that a verb knows of a kind. What a kind cannot do it refuses with an
`UnsupportedError` that says why, and the verb adds where: so a verb never asks for a type, and a
kind that is new works in it or is refused by name.
"""

from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypeVar

from loratools.deltas._span import Apply as Apply
from loratools.deltas._span import Span as Span
from loratools.deltas._stored import check_stored as check_stored
from loratools.errors import UnsupportedError
from loratools.io.computed import stored_elements
from loratools.io.source import Source

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.deltas.lora import LoRA, Scaling


class Delta(Protocol):
    """A change to a weight of shape `shape`."""

    #: What figures of the low-rank part alone leave out, for people: `before the norms are set`.
    #: None where the low-rank part is the whole change, or there is none.
    caveat: ClassVar[str | None]

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
    def additive(self) -> "Additive | None":
        """Itself, where the change is a matrix that does not depend on the weight; else None."""
        ...

    @property
    def scaling(self) -> "Scaling | None":
        """The scaling stored for it, with its alpha; None where its file has none."""
        ...

    @property
    def low_rank(self) -> "LoRA | None":
        """The LoRA that it is, or holds beside other parts; None where it has none."""
        ...

    def nothing(self) -> str | None:
        """Why it changes no weight, whatever the weight; None where it may change one.

        Numbers are read up to the first that is not zero.
        """
        ...

    def transposed(self) -> Self:
        """The same change to a weight that is stored as (fan_in, out)."""
        ...

    def scaled(self, strength: float) -> Self:
        """The same kind, which does `strength` times as much to every weight; itself for 1.

        Exact: the strength goes into alpha where there is one, and a strength of 0 into a tensor,
        because some readers take an alpha of 0 for one that was not set.

        Raises:
            UnsupportedError: only together with the weight could it have another strength.
        """
        ...

    def with_scaling(self, scaling: "Scaling", factor: float = 1.0) -> Self:
        """The same parts with another stored scaling, and `factor` put into one of its tensors.

        So the scaling can be written in another way, with the same change to every weight.

        Raises:
            UnsupportedError: it has no scaling.
        """
        ...

    def with_low_rank(self, lora: "LoRA") -> Self:
        """The same with another LoRA in the place of `low_rank`, and with its other parts.

        The components of the new one are those of the old one, in their order, or the best
        approximation of all of them at another rank.

        Raises:
            UnsupportedError: it holds none, or one of this rank would change more than precision.
        """
        ...

    def bind(self, span: Span, strength: float) -> Apply:
        """Read what the rows of `span` need, and return the function that changes their blocks.

        `strength` 0 leaves the weight as it is and 1 applies the change as it was trained.
        """
        ...


class Additive(Delta, Protocol):
    """A change that is the same matrix for every weight: such changes add up."""

    def factored(self) -> "LoRA | None":
        """The same change as a LoRA, exactly; None where it has no factors.

        A product of products may have many more ranks than its own factors: LoHa's are the square.
        """
        ...

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """The rows `begin` to `end` of the matrix, scaled, in float64; a vector is one column."""
        ...


_Kind = TypeVar("_Kind", bound=Delta)


def keys_of(delta: Delta) -> tuple[str, ...]:
    """The names of the stored tensors a change is made of, with that of its alpha."""
    alpha = delta.scaling.source if delta.scaling is not None else None
    sources = delta.sources if alpha is None else (*delta.sources, alpha)
    return tuple(key for source in sources for key in source.keys)


def parameters_of(delta: Delta) -> int:
    """The number of elements stored for a change."""
    return sum(map(stored_elements, delta.sources))


def factors_of(delta: Delta) -> "LoRA | None":
    """The low-rank part of a change, or the exact factors of all of it; None where it has none."""
    if delta.low_rank is not None or delta.additive is None:
        return delta.low_rank
    return delta.additive.factored()


def with_alpha(delta: _Kind, alpha: float) -> _Kind:
    """The same tensors with another alpha, which an additive change is proportional to.

    Raises:
        UnsupportedError: it has no alpha, or depends on the weight so that this is another change.
    """
    scaling = delta.scaling
    if scaling is None:
        raise no_scaling(delta)
    if delta.additive is None and alpha != scaling.alpha:
        raise _needs_weight(delta)
    return delta.with_scaling(*scaling.at(alpha))


def scaled_by_alpha(delta: _Kind, strength: float) -> _Kind:
    """`scaled` of an additive kind that stores a scaling."""
    if strength == 1:
        return delta
    assert delta.scaling is not None, delta.kind
    return with_alpha(delta, strength * delta.scaling.alpha)


def only_whole(delta: _Kind, strength: float) -> _Kind:
    """`scaled` of a kind that depends on the weight: itself for a strength of 1.

    Raises:
        UnsupportedError: the strength is another one.
    """
    if strength != 1:
        raise _needs_weight(delta)
    return delta


def no_scaling(delta: Delta) -> UnsupportedError:
    """Why a kind takes no scaling."""
    return UnsupportedError(f"{delta.kind} stores no scaling, and so no alpha that could change")


def no_low_rank(delta: Delta) -> UnsupportedError:
    """Why a kind takes no LoRA."""
    return UnsupportedError(f"{delta.kind} holds no LoRA that another could take the place of")


def _needs_weight(delta: Delta) -> UnsupportedError:
    return UnsupportedError(
        f"{delta.kind} depends on the weight it changes, so no other alpha gives it another "
        f"strength; see --base"
    )
