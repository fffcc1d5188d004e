"""Changes to one weight: each kind (parametrisation) in its own file, with formula and paper.

A weight is seen as a matrix, its first dimension by all others, and changed in blocks of rows.
Additive changes commute. A change that depends on the weight acts on the result of the changes
before it.

`Delta` is all that a verb knows of a kind. A kind refuses what it cannot do with an
`UnsupportedError` that says why; the verb adds the adapter and the target. So a verb never asks for
a type, and a new kind works in it or is refused by name.
"""

from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from loratools.deltas._span import Apart as Apart
from loratools.deltas._span import Apply as Apply
from loratools.deltas._span import Product as Product
from loratools.deltas._span import Span as Span
from loratools.deltas._span import is_whole as is_whole
from loratools.deltas._span import parts_of as parts_of
from loratools.deltas._stored import check_stored as check_stored
from loratools.deltas._stored import swapped as swapped
from loratools.deltas._stored import zero_factor as zero_factor
from loratools.errors import UnsupportedError
from loratools.io.computed import stored_elements
from loratools.io.source import Source
from loratools.typed import valued

if TYPE_CHECKING:
    from torch import Tensor

    from loratools.deltas.lora import LoRA, Scaling


class Delta(Protocol):
    """The protocol of all kinds of changes to one weight."""

    @property
    def caveat(self) -> str | None:
        """The part of the change that figures of the low-rank part leave out, in words for notes.

        For example `before the norms are set`. None if there is no other part, or no low-rank part.
        """
        ...

    @property
    def kind(self) -> str:
        """The usual name of the kind: LoRA, DoRA and so on."""
        ...

    @property
    def sources(self) -> tuple[Source, ...]:
        """The stored tensors that the change is made of, without that of an alpha."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight that is changed."""
        ...

    @property
    def by_rows(self) -> bool:
        """Whether a block of rows can be changed without reading the other rows."""
        ...

    @property
    def additive(self) -> "Additive | None":
        """The change itself if it adds the same matrix to every weight; else None."""
        ...

    @property
    def scaling(self) -> "Scaling | None":
        """The stored scaling, with its alpha; None if the kind stores no scaling."""
        ...

    @property
    def low_rank(self) -> "LoRA | None":
        """The LoRA that the change is, or holds besides other parts; None if it has none."""
        ...

    def nothing(self) -> str | None:
        """The reason why the change has no effect on any weight; None if it may have one.

        Tensors are read only up to the first number that is not zero.
        """
        ...

    def transposed(self) -> "Delta":
        """The same change to a weight that is stored transposed, as (fan_in, out)."""
        ...

    def rows(self, begin: int, end: int) -> "Delta":
        """The change of the rows `begin` to `end`, as one of a weight that has only these rows.

        It is exact, and reads only what it needs. For all rows, the change itself is returned.

        Raises:
            UnsupportedError: the change of a row depends on other rows, or the kind cannot store
                one of these rows alone.
            ShapeMismatchError: the weight has no such rows.
        """
        ...

    def scaled(self, strength: float) -> Self:
        """Return a change of the same kind with `strength` times the effect on every weight.

        It is exact: the strength goes into alpha if there is one, and a strength of 0 into a
        tensor, because some readers take an alpha of 0 for one that was not set. For a strength of
        1, the change itself is returned.

        Raises:
            UnsupportedError: another strength would depend on the weight.
        """
        ...

    def with_scaling(self, scaling: "Scaling", factor: float = 1.0) -> Self:
        """Replace the stored scaling, and multiply one of the tensors with `factor`.

        With the right factor, this stores the same change with another scaling.

        Raises:
            UnsupportedError: the kind stores no scaling.
        """
        ...

    def factored(self) -> "LoRA | None":
        """The LoRA `low_rank`, or else exact factors of what takes its place; None without either.

        Their rank can exceed that of the stored factors: the rank of a LoHa is their square.
        """
        ...

    def with_low_rank(self, lora: "LoRA") -> "Delta":
        """Replace the LoRA `factored()` by another one, and keep all other parts.

        The components of the new LoRA have to be those of the old one, in their order, or the best
        approximation of all of them at another rank.

        Raises:
            UnsupportedError: the kind has no factors, or cannot have one of this rank, as the rank
                also decides about something else.
        """
        ...

    def bind(self, span: Span, strength: float) -> Apply:
        """Read what the rows of `span` need, and return a function that changes blocks of them.

        A `strength` of 0 leaves the weight as it is; 1 applies the change as it was trained.
        """
        ...


class Additive(Delta, Protocol):
    """A change that adds the same matrix to every weight: such changes can be added up."""

    def transposed(self) -> "Additive":
        """The same matrix, transposed."""
        ...

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """The rows `begin` to `end` of the scaled matrix, in float64; a vector is one column."""
        ...


_Kind = TypeVar("_Kind", bound=Delta)


def keys_of(delta: Delta) -> tuple[str, ...]:
    """The names of the stored tensors that a change is made of, including that of its alpha."""
    alpha = delta.scaling.source if delta.scaling is not None else None
    sources = delta.sources if alpha is None else (*delta.sources, alpha)
    return tuple(key for source in sources for key in source.keys)


def parameters_of(delta: Delta) -> int:
    """The number of elements that are stored for a change."""
    return sum(map(stored_elements, delta.sources))


def with_alpha(delta: _Kind, alpha: float) -> _Kind:
    """Replace the alpha of a change, which an additive change is proportional to.

    Raises:
        UnsupportedError: the change has no alpha, or depends on the weight, so that it is not
            proportional to alpha.
    """
    scaling = delta.scaling
    if scaling is None:
        raise no_scaling(delta)
    if delta.additive is None and alpha != scaling.alpha:
        raise _needs_weight(delta)
    return delta.with_scaling(*scaling.at(alpha))


def scaled_by_alpha(delta: _Kind, strength: float) -> _Kind:
    """An implementation of `Delta.scaled` for additive kinds that store a scaling."""
    if strength == 1:
        return delta
    assert delta.scaling is not None, delta.kind
    return with_alpha(delta, strength * delta.scaling.alpha)


def only_whole(delta: _Kind, strength: float) -> _Kind:
    """An implementation of `Delta.scaled` for kinds that depend on the weight.

    Raises:
        UnsupportedError: the strength is not 1.
    """
    if strength != 1:
        raise _needs_weight(delta)
    return delta


def no_scaling(delta: Delta) -> UnsupportedError:
    """The error for a change whose kind stores no scaling."""
    return UnsupportedError(f"{delta.kind} stores no scaling, and so no alpha that could change")


def no_low_rank(delta: Delta) -> UnsupportedError:
    """The error for a change whose kind holds no LoRA."""
    return UnsupportedError(f"{delta.kind} holds no LoRA that another could take the place of")


def _needs_weight(delta: Delta) -> UnsupportedError:
    return UnsupportedError(
        f"{delta.kind} depends on the weight it changes, so no other alpha gives it another "
        f"strength",
        hint=f"name that model with {valued('base')}, and the ranks to keep with {valued('rank')}",
    )
