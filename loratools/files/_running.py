"""The steps of a merge under way: shared out to workers, watched, and synced file by file."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import zip_longest
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, final

from loratools.errors import StorageError
from loratools.io.writer import OutputFile
from loratools.operations.arrange import PlannedFile
from loratools.operations.execute import Step, copy_steps, edit_steps, single_threaded_torch

if TYPE_CHECKING:
    from loratools.files.merging import WriteOptions
    from loratools.operations.rounding import Fidelity

_TICK_SECONDS = 0.1


def execute(
    run: "Run", files: Sequence[PlannedFile], outputs: Sequence[OutputFile], write: "WriteOptions"
) -> "dict[str, Fidelity]":
    """Run the steps of all files, and make each file durable while the others are written.

    Copies begin before torch is imported, which takes longer than many of them.
    """
    with _workers(write) as pool, ThreadPoolExecutor(1) as syncer:
        try:
            pairs = list(zip(files, outputs, strict=True))
            run.submit(pool, _interleaved([copy_steps(*pair) for pair in pairs]))
            with single_threaded_torch():
                from loratools.operations.rounding import Rounding

                rounding = Rounding(write.seed, write.allow_nonfinite)
                run.submit(pool, _interleaved([edit_steps(*pair, rounding) for pair in pairs]))
                run.collect(outputs, syncer)
        except BrokenExecutor as error:
            raise StorageError("a worker process has died, perhaps for lack of memory") from error
        except BaseException:
            run.cancel()
            raise
        finally:
            for output in outputs:
                output.close()
    return run.fidelity()


@final
class Run:
    """Steps under way: what is left of each file, and what came back."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress or (lambda done, total: None)
        self._steps: dict[Future[tuple[str, Fidelity] | None], Step] = {}
        self._finished: SimpleQueue[Future[Any]] = SimpleQueue()
        self._tell()

    def submit(self, pool: Executor, steps: Iterable[Step]) -> None:
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

    def fidelity(self) -> "dict[str, Fidelity]":
        """The sums by tensor, added in the order of the steps and not of their completion."""
        sums: dict[str, Fidelity] = {}
        for future in self._steps:
            if (result := future.result()) is not None:
                name, part = result
                sums[name] = sums[name] + part if name in sums else part
        return sums


def _interleaved(groups: Sequence[Iterable[Step]]) -> Iterator[Step]:
    """The steps of two files in turn, then of the next two.

    A file is locked while it is written to, so workers on one file wait for each other. Two are
    enough to keep the disk busy, and leave the files before them to be synced meanwhile.
    """
    for first in range(0, len(groups), 2):
        for steps in zip_longest(*groups[first : first + 2]):
            yield from (step for step in steps if step is not None)


@contextmanager
def _workers(write: "WriteOptions") -> Iterator[Executor]:
    if write.executor is not None:
        yield write.executor
        return
    with ThreadPoolExecutor(write.jobs or os.cpu_count() or 1) as pool:
        yield pool
