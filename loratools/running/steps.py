"""Run independent steps on workers, report their progress, and finish each file when it is full.

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

#: How often progress is told, at least.
TICK_SECONDS = 0.1
_T = TypeVar("_T")
_Result_co = TypeVar("_Result_co", covariant=True)


class Step(Protocol[_Result_co]):
    """A piece of work that writes some bytes of one output file."""

    @property
    def output(self) -> OutputFile:
        """The file that the step writes to."""
        ...

    @property
    def nbytes(self) -> int:
        """The number of bytes that the step writes."""
        ...

    def run(self) -> _Result_co:
        """Do the work, and return what was measured of it."""
        ...


@final
class Run(Generic[_T]):
    """Steps that were handed to workers, and their results.

    `progress` is called with the bytes written so far and with `total`, the bytes of all steps.
    """

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress or (lambda done, total: None)
        self._steps: dict[Future[_T], Step[_T]] = {}
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self._report()

    def submit(self, pool: Executor, steps: Iterable[Step[_T]]) -> None:
        """Hand `steps` to `pool`; it runs them in any order."""
        for step in steps:
            future = pool.submit(step.run)
            self._steps[future] = step
            future.add_done_callback(self._finished.put)

    def collect(
        self,
        outputs: Sequence[OutputFile],
        syncer: Executor,
        finish: Callable[[OutputFile], object],
    ) -> None:
        """Wait for all steps, and `finish` each file on `syncer` as soon as its last step is done.

        The exception of the first step or file that fails is raised.
        """
        left = Counter(step.output.path for step in self._steps.values())

        def end(output: OutputFile) -> None:
            syncer.submit(finish, output).add_done_callback(self._finished.put)

        for output in outputs:
            if not left[output.path]:
                end(output)
        # Each step ends once, and each file is finished once.
        for _ in range(len(self._steps) + len(outputs)):
            future = self._next()
            future.result()
            step = self._steps.get(future)
            if step is None:  # the future is of a file
                continue
            self._done += step.nbytes
            self._report()
            left[step.output.path] -= 1
            if not left[step.output.path]:
                end(step.output)

    def _next(self) -> Future[Any]:
        """Wait for the next future that is done."""
        while True:
            try:
                return self._finished.get(timeout=TICK_SECONDS)
            except Empty:
                # Also without progress: the callback may raise to stop a run while steps are long.
                self._report()

    def _report(self) -> None:
        self._progress(self._done, self._total)

    def cancel(self) -> None:
        """Start no further step, and wait for those that have begun."""
        wait([future for future in self._steps if not future.cancel()])

    def results(self) -> Iterator[_T]:
        """The results in the order in which the steps were submitted, not of their completion."""
        return (future.result() for future in self._steps)


def interleaved(files: Sequence[Iterable[Step[_T]]]) -> Iterator[Step[_T]]:
    """The steps of two files in turn, then of the next two.

    A file system locks a file during a write, so workers on one file wait for each other. Two files
    are enough to keep the disk busy, and those before them can be synced meanwhile.
    """
    for first in range(0, len(files), 2):
        for steps in zip_longest(*files[first : first + 2]):
            yield from (step for step in steps if step is not None)


@contextmanager
def workers(executor: Executor | None, jobs: int | None, *, waiting: int = 0) -> Iterator[Executor]:
    """`executor` if one is given, else a pool of `jobs` threads.

    By default there is one a core, beside `waiting` that are expected to wait for a disk.
    """
    if executor is not None:
        yield executor
        return
    with ThreadPoolExecutor(jobs or waiting + (os.cpu_count() or 1)) as pool:
        yield pool
