"""A change of some rows of a weight, as a part has that is fused with others: W'[at] = f(W[at]).

Weights of attention are stored apart (q, k and v) or fused in one, and some converters swap the
halves of a weight. A change of any kind to such a part is one of the rows that it has in the other
weight. It sees no more of that weight than these rows, so that it does to them what it would do to
the part alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, cast, final

from loratools.deltas import Additive, Apart, Apply, Delta, Product, Span, is_whole, only_whole
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import ShapeMismatchError, UnsupportedError, listing
from loratools.io.computed import rearranged, taken
from loratools.io.source import Source, sliced

if TYPE_CHECKING:
    from torch import Tensor


class Run(NamedTuple):
    """Consecutive rows: the part's from `begin` on are those of the weight from `at` on."""

    begin: int
    at: int
    count: int  # type: ignore[assignment]  # not the method that tuples have


def placed(delta: Delta, runs: tuple[Run, ...], shape: tuple[int, ...]) -> Delta:
    """A change to the rows `runs` of a weight of shape `shape`, whose other rows stay as they are.

    Each row of the change is in one of the runs. The change itself is returned if the weight has
    its rows, in their order, and no others.

    Raises:
        ShapeMismatchError: the runs leave out or repeat a row of the change, or do not fit the
            weight.
    """
    change = Placed(delta, tuple(sorted(runs, key=attrgetter("at"))), shape)
    is_same = shape == delta.shape and all(run.begin == run.at for run in runs)
    return delta if is_same else change


def overlap(one: Delta, other: Delta) -> bool:
    """Whether two changes of one weight may change the same row."""
    return any(
        begin < last and first < end
        for begin, end in touched_rows(one)
        for first, last in touched_rows(other)
    )


def touched_rows(delta: Delta) -> tuple[tuple[int, int], ...]:
    """The rows that a change may change, as ranges in rising order: those of its runs, or all."""
    if isinstance(delta, Placed):
        return tuple((run.at, run.at + run.count) for run in delta.runs)
    return ((0, delta.shape[0]),)


def alone(delta: Delta, weight: Source) -> tuple[Delta, Source]:
    """A placed change without its place, and the rows of the weight that it sees.

    For any other change, they are the change itself and the weight.
    """
    if not isinstance(delta, Placed):
        return delta, weight
    rows = tuple(row for _, at, count in sorted(delta.runs) for row in range(at, at + count))
    is_one_run = rows == tuple(range(rows[0], rows[-1] + 1))
    own = sliced(weight, rows[0], rows[-1] + 1) if is_one_run else taken(weight, rows)
    return delta.change, own


@final
@dataclass(frozen=True)
class Placed:
    """A change of any kind to some rows of a larger weight; made by `placed`.

    `runs` are in the order of the weight's rows.
    """

    change: Delta
    runs: tuple[Run, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that every row of the change has one place, and every place one row."""
        rows, *width = self.shape
        ours = sorted((run.begin, run.begin + run.count) for run in self.runs)
        theirs = [(run.at, run.at + run.count) for run in self.runs]
        is_partition = (
            all(run.count > 0 for run in self.runs)
            and [0, *(end for _, end in ours)] == [*(begin for begin, _ in ours), self._own_rows]
            and all(end <= begin for (_, end), (begin, _) in pairwise(theirs))
            and theirs[0][0] >= 0
            and theirs[-1][1] <= rows
        )
        if not is_partition or tuple(width) != self.change.shape[1:]:
            runs = listing([f"{r.begin}:{r.begin + r.count} at {r.at}" for r in self.runs], 3)
            raise ShapeMismatchError(
                f"{self.change.sources[0].keys[0]}: a change of shape {list(self.change.shape)} "
                f"does not fit a weight of shape {list(self.shape)} with rows {runs or 'nowhere'}",
                tensor=self.change.sources[0].keys[0],
            )

    @property
    def _own_rows(self) -> int:
        """The number of rows of the change that is placed."""
        return self.change.shape[0]

    @property
    def caveat(self) -> str | None:
        """What figures of the low-rank part of the placed change leave out."""
        return self.change.caveat

    @property
    def kind(self) -> str:
        """The name of the kind that is placed."""
        return self.change.kind

    @property
    def sources(self) -> tuple[Source, ...]:
        """The tensors of the placed change; if it holds a LoRA, with the `up` of `low_rank`."""
        inner = self.change.low_rank
        if inner is None or self.low_rank is None:
            return self.change.sources
        up = self.low_rank.up
        return tuple(up if source is inner.up else source for source in self.change.sources)

    @property
    def by_rows(self) -> bool:
        """Whether a row of the placed change needs no other one."""
        return self.change.by_rows

    @property
    def additive(self) -> Additive | None:
        """This change itself if the placed one adds the same matrix to every weight."""
        return None if self.change.additive is None else cast("Additive", self)

    @property
    def scaling(self) -> Scaling | None:
        """The scaling of the placed change."""
        return self.change.scaling

    @cached_property
    def low_rank(self) -> LoRA | None:
        """The LoRA in the placed change, with zeros in all other rows of `up`."""
        lora = self.change.low_rank
        return None if lora is None else _spread(lora, self.runs, self.shape)

    def factored(self) -> LoRA | None:
        """The factors of the placed change, with zeros in all other rows of `up`."""
        if self.low_rank is not None:
            return self.low_rank
        lora = self.change.factored()
        return None if lora is None else _spread(lora, self.runs, self.shape)

    def nothing(self) -> str | None:
        """The reason why the placed change has no effect; None if it may have one."""
        return self.change.nothing()

    def transposed(self) -> Additive:
        """The same update of the transposed weight, if it is a vector or a product of factors.

        Raises:
            UnsupportedError: it is neither, so it cannot be placed in columns.
        """
        if len(self.shape) == 1 and self.additive is not None:
            return self.additive
        if (lora := self._added_factors()) is not None:
            return lora.transposed()
        raise UnsupportedError(
            f"{self.kind} of some rows of a weight cannot be one of the same columns of the "
            f"transposed weight"
        )

    def rows(self, begin: int, end: int) -> Delta:
        """The part of the change in some rows of the weight.

        Raises:
            UnsupportedError: the placed change cannot be cut in this way, or has no such rows.
        """
        if is_whole(begin, end, self.shape):
            return self
        runs = tuple(self._within(begin, end))
        if runs:
            first = min(run.begin for run in runs)
            last = max(run.begin + run.count for run in runs)
            if last - first == sum(run.count for run in runs):
                moved = tuple(Run(r.begin - first, r.at - begin, r.count) for r in runs)
                shape = (end - begin, *self.shape[1:])
                return placed(self.change.rows(first, last), moved, shape)
        if (lora := self._added_factors()) is not None:
            return lora.rows(begin, end)
        what = "consecutive rows" if runs else "rows"
        raise UnsupportedError(f"{self.kind} has no {what} among the rows {begin} to {end}")

    def scaled(self, strength: float) -> "Placed":
        """The placed change with another strength, in the same rows."""
        if self.additive is None or strength == 1:
            return only_whole(self, strength)
        return replace(self, change=self.change.scaled(strength))

    def with_scaling(self, scaling: Scaling, factor: float = 1.0) -> "Placed":
        """Replace the scaling of the placed change, and multiply one of its tensors."""
        return replace(self, change=self.change.with_scaling(scaling, factor))

    def with_low_rank(self, lora: LoRA) -> "Placed":
        """Replace the LoRA `factored()` of the placed change by the rows that another has there."""
        back = tuple(Run(run.at, run.begin, run.count) for run in self.runs)
        own = _spread(lora, back, self.change.shape)
        return replace(self, change=self.change.with_low_rank(own))

    def dense_rows(self, begin: int, end: int) -> "Tensor":
        """The rows `begin` to `end` of the scaled matrix, in float64; those of others are zero."""
        import torch

        added = self.change.additive
        assert added is not None, self.kind
        dense = torch.zeros(end - begin, math.prod(self.shape[1:]), dtype=torch.float64)
        for own, at, count in self._within(begin, end):
            dense[at - begin : at - begin + count] = added.dense_rows(own, own + count)
        return dense

    def bind(self, span: Span, strength: float) -> Apply:
        """Bind the placed change to its own rows of the weight, by their own numbers."""

        def blocks() -> "Iterator[tuple[int, Tensor]]":
            for first, block in span.blocks():
                for own, at, count in self._within(first, first + len(block)):
                    yield own, block[at - first : at - first + count]

        def bound(begin: int, end: int) -> Apply:
            return self.change.bind(Span(begin, end, span.dtype, blocks), strength)

        runs = tuple(self._within(span.begin, span.end))
        if runs and not self.by_rows:
            # Only once, as it may read the whole part to be bound.
            whole = bound(0, self._own_rows)
            return Apart(tuple(_moved(whole, run) for run in runs))
        return Apart(tuple(_moved(bound(r.begin, r.begin + r.count), r) for r in runs))

    def _within(self, begin: int, end: int) -> Iterator[Run]:
        """The parts of the runs in the rows `begin` to `end` of the weight."""
        for run in self.runs:
            first, last = max(begin, run.at), min(end, run.at + run.count)
            if first < last:
                yield Run(run.begin + first - run.at, first, last - first)

    def _added_factors(self) -> LoRA | None:
        """Exact factors of the whole change; None if it has none or depends on the weight."""
        return None if self.additive is None else self.factored()


def _spread(lora: LoRA, runs: tuple[Run, ...], shape: tuple[int, ...]) -> LoRA:
    """A LoRA of a weight of this shape, whose rows are those of another one and zeros."""
    up = rearranged(lora.up, (shape[0], lora.rank), _Spread(runs, shape[0]))
    return replace(lora, up=up, shape=shape)


@final
@dataclass(frozen=True)
class _Spread:
    """Moves the rows of a matrix to their places in another one: a value that can be pickled."""

    runs: tuple[Run, ...]
    rows: int

    def __call__(self, tensor: "Tensor") -> "Tensor":
        other = tensor.new_zeros(self.rows, *tensor.shape[1:])
        for begin, at, count in self.runs:
            other[at : at + count] = tensor[begin : begin + count]
        return other


@final
@dataclass(frozen=True, eq=False)
class _Moved:
    """An `Apply` for rows that have other numbers in the weight."""

    apply: Apply
    run: Run

    def __call__(self, block: "Tensor", begin: int) -> None:
        own, at, count = self.run
        first, last = max(begin, at), min(begin + len(block), at + count)
        if first < last:
            self.apply(block[first - begin : last - begin], first - at + own)


def _moved(apply: Apply, run: Run) -> Apply:
    """What changes the rows of a run as `apply` changes the part's."""
    if not isinstance(apply, Product):
        return _Moved(apply, run)
    first = run.begin - apply.begin
    return Product(apply.up[first : first + run.count], apply.down, run.at)
