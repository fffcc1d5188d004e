"""Independent steps under way: shared out to workers, watched, and synced file by file.

A step is a value that can be pickled and run again with the same result, so any
`concurrent.futures.Executor` will do: threads, processes, or a cluster's.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import zip_longest
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar, final

from loratools.io.writer import OutputFile

_TICK_SECONDS = 0.1
_T = TypeVar("_T")
_Result_co = TypeVar("_Result_co", covariant=True)


class Step(Protocol[_Result_co]):
    """A piece of work."""

    @property
    def output(self) -> OutputFile:
        """The file it writes to."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes it writes."""
        ...

    def run(self) -> _Result_co:
        """Do it, and return what is to be known of it."""
        ...


@final
class Run(Generic[_T]):
    """Steps under way: what is left of each file, and what came back.

    `progress` is called with the bytes that are written and with `total`, those of all steps.
    """

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress or (lambda done, total: None)
        self._steps: dict[Future[_T], Step[_T]] = {}
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self._tell()

    def submit(self, pool: Executor, steps: Iterable[Step[_T]]) -> None:
        """Start steps."""
        for step in steps:
            future = pool.submit(step.run)
            self._steps[future] = step
            future.add_done_callback(self._finished.put)

    def collect(self, outputs: Sequence[OutputFile], syncer: Executor) -> None:
        """Wait for all steps; the first failure is raised. Every full file is synced."""
        left = Counter(step.output.path for step in self._steps.values())

        def sync(output: OutputFile) -> None:
            syncer.submit(output.sync).add_done_callback(self._finished.put)

        for output in outputs:
            if not left[output.path]:
                sync(output)
        for _ in range(len(self._steps) + len(outputs)):
            future = self._next()
            future.result()
            step = self._steps.get(future)
            if step is None:  # it was a sync
                continue
            self._done += step.nbytes
            self._tell()
            left[step.output.path] -= 1
            if not left[step.output.path]:
                sync(step.output)

    def _next(self) -> Future[Any]:
        """The next future that is done."""
        while True:
            try:
                return self._finished.get(timeout=_TICK_SECONDS)
            except Empty:
                self._tell()

    def _tell(self) -> None:
        self._progress(self._done, self._total)

    def cancel(self) -> None:
        """Start no further step, and wait for those that have begun."""
        wait([future for future in self._steps if not future.cancel()])

    def results(self) -> Iterator[_T]:
        """What came back, in the order of the steps and not of their completion."""
        return (future.result() for future in self._steps)


def interleaved(files: Sequence[Iterable[Step[_T]]]) -> Iterator[Step[_T]]:
    """The steps of two files in turn, then of the next two.

    A file is locked while it is written to, so workers on one file wait for each other. Two are
    enough to keep the disk busy, and leave the files before them to be synced meanwhile.
    """
    for first in range(0, len(files), 2):
        for steps in zip_longest(*files[first : first + 2]):
            yield from (step for step in steps if step is not None)


@contextmanager
def workers(executor: Executor | None, jobs: int | None) -> Iterator[Executor]:
    """`executor` if there is one, else that many threads; one a core if `jobs` is None."""
    if executor is not None:
        yield executor
        return
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        yield pool
