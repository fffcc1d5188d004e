"""What an adapter does to one weight, as a user asks for it: an item of an opened adapter."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never, final

from loratools.arguments import checked
from loratools.deltas import Delta, Span, parameters_of
from loratools.errors import (
    ArgumentError,
    LoratoolsError,
    NonFiniteError,
    OptionError,
    ShapeMismatchError,
    UnsupportedError,
    about,
    shorten,
)
from loratools.guesses import Answering
from loratools.io.computed import stored_elements
from loratools.io.given import plain_tensor
from loratools.io.source import Source
from loratools.io.values import is_finite
from loratools.nearest import ours
from loratools.other_words import OF_A_TARGET
from loratools.showing.parts import Column, Table, numbers

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from loratools.deltas.lora import LoRA


@final
@dataclass(frozen=True, repr=False, eq=False)
class Target(Answering):
    """What an adapter does to one weight. Numbers are read when they are asked for, and not kept.

    An additive update, such as a LoRA, is the same for every weight W: W' = W + ΔW. Others, such as
    DoRA, depend on W, and so do whole tensors and rows that take the place of the base's. Their
    methods need the base's `weight`, in the shape and orientation of `shape`.

    Attributes:
        where: the adapter's file or folder, for messages.
        name: the full name of the weight, as the trainer saw it.
        delta: how the update is stored, of which `update()` is the ΔW; None where the weight is
            only replaced.
        whole: the tensor that takes the weight's place, if there is one.
        indices: the numbers of the rows that others take the place of.
        rows: these other rows, in the order of `indices`; None without any.

    Example:
        >>> import loratools
        >>> query = loratools.open_adapter("fixtures/adapters/plain")["layers.0.self_attn.q_proj"]
        >>> query.update().shape
        torch.Size([64, 64])
        >>> len(query.singular_values())
        8
    """

    _MADE_BY = "an item of an adapter is one: open_adapter(path)[name]"

    where: str
    name: str
    delta: Delta | None = None
    whole: Source | None = None
    indices: tuple[int, ...] = ()
    rows: Source | None = None

    def __repr__(self) -> str:
        """One line: the name, the kind, the shape, and rank and scaling where there are any."""
        size = " × ".join(map(str, self.shape)) or "scalar"
        rank = "" if self.rank is None else f", rank {self.rank}"
        scaling = "" if self.scaling is None else f", scaling {self.scaling:g}"
        return f"<{self.name}: {self.kind}, {size}{rank}{scaling}>"

    def __eq__(self, other: object) -> bool:
        """Whether both are the same target of the same adapter; values are not compared."""
        return isinstance(other, Target) and self._identity == other._identity

    def __hash__(self) -> int:
        """A hash that equal targets share."""
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return (self.where, self.name, id(self.delta), id(self.whole), id(self.rows))

    @classmethod
    def _meant(cls, name: str) -> str | None:
        found = ours(name, OF_A_TARGET)
        return found and f"did you mean {found}?"

    if not TYPE_CHECKING:  # to which there are no such operators

        def _compute(self, *_: object, **__: object) -> Never:
            raise ArgumentError(
                f"{self._place}: a target is no tensor",
                hint="update() is its ΔW as one, and update(0, 2) the first two rows",
            )

        __getitem__ = __array__ = __add__ = __radd__ = __sub__ = __rsub__ = __neg__ = _compute
        __mul__ = __rmul__ = __truediv__ = __matmul__ = __rmatmul__ = _compute

    @property
    def kind(self) -> str:
        """The usual name of the update (LoRA, DoRA, …), `whole tensor`, or `rows`."""
        if self.delta is not None:
            return self.delta.kind
        return "whole tensor" if self.whole is not None else "rows"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight; of one with other rows, that of these rows alone."""
        known = self.delta or self.whole or self.rows
        return () if known is None else tuple(known.shape)

    @property
    def rank(self) -> int | None:
        """The rank of the stored factors; None for a kind without a LoRA."""
        lora = self.delta.low_rank if self.delta is not None else None
        return None if lora is None else lora.rank

    @property
    def alpha(self) -> float | None:
        """The stored alpha; None for a kind that stores none."""
        scaling = self.delta.scaling if self.delta is not None else None
        return None if scaling is None else scaling.alpha

    @property
    def scaling(self) -> float | None:
        """The factor before `up @ down`: alpha / rank, or what else the format says."""
        scaling = self.delta.scaling if self.delta is not None else None
        return None if scaling is None else scaling.value

    @property
    def parameters(self) -> int:
        """The number of elements that are stored for this weight."""
        replaced = sum(stored_elements(source) for source in (self.whole, self.rows) if source)
        return replaced + (parameters_of(self.delta) if self.delta is not None else 0)

    @property
    def up(self) -> "Tensor":
        """The factor of shape (rows, rank) in ΔW = scaling · up @ down, as it is stored.

        It is a copy: what is done to it is not done to the adapter. PEFT calls it `lora_B`. A kind
        with other parameters, such as LoHa, has exact factors computed from them, in float64.

        Raises:
            UnsupportedError: the kind has no factors.
        """
        return self._lora().up.read().clone()

    @property
    def down(self) -> "Tensor":
        """The factor of shape (rank, columns) in ΔW = scaling · up @ down; see `up`.

        PEFT calls it `lora_A`. A convolution's columns are all of its dimensions after the first.

        Raises:
            UnsupportedError: the kind has no factors.
        """
        return self._lora().down.read().clone()

    @checked
    def update(
        self,
        begin: int = 0,
        end: int | None = None,
        *,
        weight: "Tensor | np.ndarray[Any, Any] | None" = None,
    ) -> "Tensor":
        """ΔW = W' - W in float64, with the scaling; of its rows `begin` to `end` if they are given.

        The result has the shape of the weight, or of these rows. `weight` is W as a whole, which
        only a change that depends on it needs.

        Raises:
            OptionError: there are no such rows.
            ShapeMismatchError: `weight` has another shape.
            UnsupportedError: the change depends on the weight, and `weight` is not given.
        """
        before = self._fitting(weight)
        rows = len(before) if before is not None and self.delta is None else self.shape[0]
        end = rows if end is None else end
        if not 0 <= begin < end <= rows:
            raise self._error(OptionError, f"rows {begin} to {end} are not some of its {rows}")
        if self.delta is not None and self.delta.additive is not None and self.rows is None:
            block = self.delta.additive.dense_rows(begin, end)
            return block.reshape(end - begin, *self.shape[1:])
        if before is None:
            raise self._error(
                UnsupportedError,
                f"{self.kind} depends on the weight of the base",
                hint="give it as weight=",
            )
        before = before.double()
        return (self._changed(before, begin, end) - before[begin:end]).clone()

    @checked
    def singular_values(self, *, weight: "Tensor | np.ndarray[Any, Any] | None" = None) -> "Tensor":
        """The singular values of ΔW in float64, falling: at most as many as its factors have ranks.

        A convolution is seen as the matrix of its first dimension by all others. `weight` is as for
        `update`.

        Raises:
            NonFiniteError: ΔW holds a NaN or an infinity, and so has none.
        """
        import torch

        from loratools.lowrank.factored import singular_values

        if self._is_product:
            lora = self._lora()
            up = lora.up.read().double() * lora.scaling.value
            matrices = [up, lora.down.read().double()]
        else:
            matrices = [self._matrix(weight)]
        if not all(map(is_finite, matrices)):
            raise self._error(
                NonFiniteError,
                "the update holds a NaN or an infinity",
                hint="inspect(adapter, spectrum=True) names the tensors that do",
            )
        values: Tensor = (singular_values if self._is_product else torch.linalg.svdvals)(*matrices)
        return values

    @checked
    def norm(self, *, weight: "Tensor | np.ndarray[Any, Any] | None" = None) -> float:
        """The Frobenius norm of ΔW; `weight` is as for `update`."""
        from loratools.lowrank.factored import Factored, product_norm

        if self._is_product:
            lora = self._lora()
            factors = Factored(lora.up.read().double(), lora.down.read().double())
            return abs(lora.scaling.value) * product_norm(factors)
        return float(self._matrix(weight).norm())

    @property
    def _place(self) -> str:
        return f"{self.where}: {shorten(self.name)}"

    def _error(
        self, kind: type[LoratoolsError], what: str, *, hint: str | None = None
    ) -> LoratoolsError:
        return kind(f"{self._place}: {what}", file=self.where, tensor=self.name, hint=hint)

    @property
    def _is_product(self) -> bool:
        """Whether ΔW is no more than the product of factors."""
        delta = self.delta
        is_additive = delta is not None and delta.additive is not None and self.rows is None
        return is_additive and delta is not None and delta.factored() is not None

    def _lora(self) -> "LoRA":
        lora = self.delta.factored() if self.delta is not None else None
        if lora is None:
            raise self._error(UnsupportedError, f"{self.kind} has no factors", hint="see update()")
        return lora

    def _matrix(self, weight: "Tensor | np.ndarray[Any, Any] | None") -> "Tensor":
        update = self.update(weight=weight)
        return update.reshape(len(update), math.prod(update.shape[1:]))

    def _fitting(self, weight: "Tensor | np.ndarray[Any, Any] | None") -> "Tensor | None":
        """The weight as a tensor, if it is given and has the shape of the change."""
        if weight is None:
            return None
        shape = tuple(weight.shape)
        fits = shape[1:] == self.shape[1:] if self._has_only_rows else shape == self.shape
        if not fits or not shape:
            raise self._error(
                ShapeMismatchError, f"changes a weight {list(self.shape)}, not {list(shape)}"
            )
        with about(self.name):
            before = plain_tensor(f"{self._place}: weight", weight)
            if before.is_complex():
                raise UnsupportedError(f"{self._place}: weight: a tensor of complex numbers")
        return before

    @property
    def _has_only_rows(self) -> bool:
        return self.delta is None and self.whole is None

    def _changed(self, before: "Tensor", begin: int, end: int) -> "Tensor":
        """The rows `begin` to `end` of W', given W."""
        if self.whole is not None:
            return self.whole.read_rows(begin, end).double()
        after = before[begin:end].clone()
        if self.delta is not None:
            flat = before.reshape(len(before), -1)

            def blocks() -> "Iterator[tuple[int, Tensor]]":
                yield 0, flat.clone()

            span = Span(begin, end, before.dtype, blocks)
            self.delta.bind(span, 1.0)(after.view(end - begin, -1), begin)
        if self.rows is not None:
            new = self.rows.read().double()
            for number, index in enumerate(self.indices):
                if begin <= index < end:
                    after[index - begin] = new[number]
        return after


def table_of(targets: Sequence[Target]) -> Table:
    """A row for each target, as notebooks show an adapter."""
    return Table(
        [
            Column("target", [target.name for target in targets]),
            numbers("shape", ("×".join(map(str, target.shape)) for target in targets)),
            numbers("rank", ("" if t.rank is None else str(t.rank) for t in targets)),
            numbers("alpha", ("" if t.alpha is None else f"{t.alpha:.4g}" for t in targets)),
            numbers(
                "scaling",
                ("" if t.scaling is None else f"{t.scaling:.4g}" for t in targets),
                "factor of up · down",
            ),
            Column("kind", [target.kind for target in targets]),
        ]
    )
