"""Targets are worked on side by side, each by one thread."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import Protocol, TypeVar

#: For each thread. To hand out a call costs as much as a tiny one: of very many, several at once.
_BATCHES = 256
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
    workers = jobs or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:

        def each(function: Callable[[_A], _B], items: Iterable[_A], /) -> Iterator[_B]:
            todo, ended = list(items), Event()
            size = 1 + len(todo) // (workers * _BATCHES)
            futures = [
                pool.submit(_alone, function, todo[begin : begin + size], ended)
                for begin in range(0, len(todo), size)
            ]
            try:
                for future in futures:
                    yield from future.result()
            finally:
                ended.set()
                wait([future for future in futures if not future.cancel()])

        yield each


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """One thread a step: steps are the parallelism, and sums do not depend on their number.

    Threads that have computed before, and other processes, have a number of their own.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _alone(function: Callable[[_A], _B], items: Sequence[_A], ended: Event) -> list[_B]:
    with single_threaded_torch():
        return [function(item) for item in items if not ended.is_set()]
