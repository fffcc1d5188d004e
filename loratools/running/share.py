"""The share of a verb's work that is done, which never falls, however many maps it is made of."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Protocol, Self, TypeVar, final

from loratools.running.progress import Progress

_A = TypeVar("_A")
_B = TypeVar("_B")


@final
class Meter:
    """Tells a callback how much of a verb's work is done, out of a `total` that stays the same.

    The total is in units that a user knows, such as the targets of an adapter. As each of them goes
    through several maps, what is told is the share of the work that is done, of this total.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress if callable(progress) else lambda done, total: None
        self._total = max(1, total)
        self._done = 0
        self._lock = threading.Lock()

    def again(self) -> None:
        """Tell the same again: what the callback raises can stop the verb during a long call."""
        self.reach(Fraction(0))

    def reach(self, share: Fraction) -> None:
        """Tell that this share of the work is done, unless more was told already."""
        with self._lock:
            self._done = max(self._done, int(share * self._total))
            self._progress(self._done, self._total)

    def end(self) -> None:
        """Tell that all is done, if that was not told."""
        if self._done < self._total:
            self.reach(Fraction(1))

    @contextmanager
    def unstoppable(self) -> Iterator[None]:
        """A block that the callback can't stop: what it raises is kept, and raised at the end.

        From then on it is not called any more within the block.
        """
        kept: list[BaseException] = []
        real = self._progress

        def keep(done: int, total: int) -> None:
            try:
                if not kept:
                    real(done, total)
            except BaseException as error:
                kept.append(error)

        self._progress = keep
        try:
            yield
        finally:
            self._progress = real
        if kept:
            raise kept[0]


@dataclass(frozen=True)
class Span:
    """A part of a verb's work: from the share `begin` of all of it to the share `end`."""

    meter: Meter
    begin: Fraction = Fraction(0)
    end: Fraction = Fraction(1)

    def tell(self, done: int, total: int) -> None:
        """Tell how much of this part is done; all of it, if there is nothing to do."""
        part = Fraction(done, total) if total else Fraction(1)
        self.meter.reach(self.begin + part * (self.end - self.begin))

    def split(self, *weights: int) -> tuple[Self, ...]:
        """A part for each phase of the work, in their order; `weights` say how long each takes."""
        unit = (self.end - self.begin) / max(1, sum(weights))
        ends = [self.begin + weight * unit for weight in accumulate(weights, initial=0)]
        return tuple(replace(self, begin=begin, end=end) for begin, end in pairwise(ends))


class Map(Protocol):
    """The type of the built-in `map`, and of an executor's `map`."""

    def __call__(self, function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterable[_B]:
        """The results in the order of the items."""
        ...


class Counting(Protocol):
    """A `map` that calls `tell` with the number of calls that are done, and of all."""

    def __call__(
        self,
        function: Callable[[_A], _B],
        items: Iterable[_A],
        tell: Callable[[int, int], object],
        /,
    ) -> Iterator[_B]:
        """The results in the order of the items."""
        ...


@final
@dataclass(frozen=True)
class Share(Span):
    """A `map` on threads, whose calls are a part of a verb's work.

    If a share is mapped over more than once, the first map is all of it, and the others add none.
    """

    run: Counting = field(kw_only=True)

    def __call__(self, function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterator[_B]:
        """The results in the order of the items."""
        return self.run(function, items, self.tell)

    def uncounted(self, function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterator[_B]:
        """The same, where progress is told by others."""
        return self.run(function, items, lambda done, total: None)

    def here(self, function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterator[_B]:
        """The same in the thread of the caller, for what needs no torch, which threads import."""
        todo = list(items)
        self.tell(0, len(todo))
        for done, item in enumerate(todo, 1):
            yield function(item)
            self.tell(done, len(todo))


def split(each: Map, *weights: int) -> tuple[Map, ...]:
    """A map for each phase of the work that `each` is for; `weights` say how long each takes."""
    return each.split(*weights) if isinstance(each, Share) else (each,) * len(weights)


def here(each: Map) -> Map:
    """The same map in the thread of the caller, for what needs no torch, which threads import."""
    return each.here if isinstance(each, Share) else map
