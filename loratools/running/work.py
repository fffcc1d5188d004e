"""Work on files in another thread, while the caller waits, tells its progress, and can stop it."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar, final

from loratools.running.progress import Progress

_TICK_SECONDS = 0.1
#: How long work that is given up is waited for: it learns of that when it next notes something,
#: which a network that hangs can delay.
_PATIENCE_SECONDS = 5.0

_T = TypeVar("_T")


class GivenUpError(Exception):
    """Ends work, in its own thread, whose result nobody waits for any more."""


@final
class Work:
    """Calls that are made in another thread, one after the other, and how far each file is.

    The work notes its progress in any thread. It is told to the callback in the caller's, so that
    what the callback raises stops the caller like any error, and then the work.
    """

    def __init__(self, sizes: Mapping[str, int], progress: Progress) -> None:
        self._sizes, self._done = dict(sizes), dict.fromkeys(sizes, 0)
        self._progress = progress
        self._is_over = False
        self._pool = ThreadPoolExecutor(1)
        self._begun: list[Future[object]] = []

    def begin(self, call: Callable[..., _T], *arguments: object) -> Future[_T]:
        """Have a call made when those begun before have ended."""
        future = self._pool.submit(call, *arguments)
        self._begun.append(future)  # type: ignore[arg-type]  # a result is an object
        return future

    def result(self, future: Future[_T]) -> _T:
        """Wait for the result of a call, and tell the progress meanwhile."""
        while wait([future], _TICK_SECONDS).not_done:
            self.tell()
        self.tell()
        return future.result()

    def note(self, name: str, done: int) -> None:
        """Note that this much of a file is done, if that is more than before.

        Raises:
            GivenUpError: nobody waits for it any more.
        """
        if self._is_over:
            raise GivenUpError
        if name in self._sizes:
            self._done[name] = max(self._done[name], min(done, self._sizes[name]))

    def complete(self, name: str) -> None:
        """Note that a file is done."""
        self.note(name, self._sizes.get(name, 0))

    def tell(self) -> None:
        """Tell the callback how much is done, and how much there is to do."""
        if callable(self._progress):
            self._progress(sum(self._done.values()), sum(self._sizes.values()))

    def end(self) -> None:
        """Tell the callback that all is done."""
        for name in self._sizes:
            self.complete(name)
        self.tell()

    def give_up(self) -> None:
        """Have calls that have not ended do so when they next note something."""
        self._is_over = True
        begun = [future for future in self._begun if not future.cancel()]
        self._pool.shutdown(wait=False)
        wait(begun, _PATIENCE_SECONDS)


@contextmanager
def working(sizes: Mapping[str, int], progress: Progress) -> Iterator[Work]:
    """Work on files of the given sizes, of which nothing goes on after the block."""
    work = Work(sizes, progress)
    try:
        work.tell()
        yield work
    finally:
        work.give_up()
