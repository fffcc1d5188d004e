"""A `map` over targets that runs on threads, each target on one."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

from loratools.io.collector import collector_paused
from loratools.running.progress import Progress
from loratools.running.share import Meter, Share

#: The most batches of calls a thread gets. Handing out a call costs as much as a tiny call does, so
#: very many calls are handed out several at once.
_BATCHES = 256
_TICK_SECONDS = 0.1
_A = TypeVar("_A")
_B = TypeVar("_B")


@contextmanager
def threads(jobs: int | None, progress: Progress = None, total: int = 1) -> Iterator[Share]:
    """A `map` on `jobs` threads (one a core if None); results do not depend on their number.

    `progress`, if it is a callback, is called with the share of the work that is done, out of
    `total`: at the beginning, with the results, ten times a second while one is waited for, and
    with all of it at the end. See `Share.split` for work that takes more than one map.

    If a call fails, or the caller stops iterating, no further call begins, and those that have
    begun are waited for: they may be writing to a file that is closed or removed next.
    """
    workers = jobs or os.cpu_count() or 1
    meter = Meter(progress, total)
    meter.again()

    def awaited(future: Future[list[_B]]) -> list[_B]:
        while callable(progress) and not wait([future], _TICK_SECONDS).done:
            meter.again()
        return future.result()

    with ThreadPoolExecutor(workers) as pool:

        def run(
            function: Callable[[_A], _B],
            items: Iterable[_A],
            tell: Callable[[int, int], object],
            /,
        ) -> Iterator[_B]:
            todo, ended = list(items), Event()
            size = 1 + len(todo) // (workers * _BATCHES)
            starts = range(0, len(todo), size)
            futures = [
                pool.submit(_batch, function, todo[begin : begin + size], ended) for begin in starts
            ]
            try:
                tell(0, len(todo))
                for begin, future in zip(starts, futures, strict=True):
                    found = awaited(future)
                    tell(begin + len(found), len(todo))
                    yield from found
            finally:
                ended.set()
                wait([future for future in futures if not future.cancel()])

        yield Share(meter, run=run)
        meter.end()


def import_torch() -> None:
    """Import torch with the collector of garbage paused, which saves a twelfth of the time.

    The import makes some 300 000 objects that stay, and the collector would look through them again
    and again. Verbs call this before they import a module that imports torch.
    """
    if "torch" not in sys.modules:
        with collector_paused():
            import torch  # noqa: F401


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Let torch compute on one thread within the block.

    Calls already run side by side, and a sum that torch splits over threads would depend on their
    number. Enter it in each thread and process that computes: torch keeps a number of threads for
    every thread that has computed before.
    """
    import_torch()
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batch(function: Callable[[_A], _B], items: Sequence[_A], ended: Event) -> list[_B]:
    with single_threaded_torch():
        return [function(item) for item in items if not ended.is_set()]
