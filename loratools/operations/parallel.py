"""Targets are worked on side by side, each by one thread."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol, TypeVar

from loratools.operations.execute import single_threaded_torch

_A = TypeVar("_A")
_B = TypeVar("_B")


class Map(Protocol):
    """The built-in `map`, or that of an executor."""

    def __call__(self, function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterable[_B]:
        """The results in the order of the items."""
        ...


@contextmanager
def threads(jobs: int | None) -> Iterator[Map]:
    """A `map` by so many threads, one a core if None; results do not depend on their number.

    Where one call fails, or the results are not wanted any more, no further one begins, and those
    that have begun are waited for: they may be writing to what is then closed or removed.
    """
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:

        def each(function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterator[_B]:
            futures = [pool.submit(_alone, function, item) for item in items]
            try:
                for future in futures:
                    yield future.result()
            finally:
                wait([future for future in futures if not future.cancel()])

        yield each


def _alone(function: Callable[[_A], _B], item: _A) -> _B:
    with single_threaded_torch():
        return function(item)
