"""Work on files in other threads, while the caller waits, tells its progress, and can stop it."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, final

from loratools.io.stopping import check_stop
from loratools.running.progress import Progress

_TICK_SECONDS = 0.1
#: How long work that is given up is waited for: it learns of that when it next notes something, or
#: is woken up; before the first bytes of an answer it can be neither.
_PATIENCE_SECONDS = 1.0

_T = TypeVar("_T")


class GivenUpError(Exception):
    """Ends work, in its own thread, whose result nobody waits for any more."""


@final
class Work:
    """Calls that are made in other threads, begun in order, and how far each file is.

    The work notes its progress in any thread. It is told to the callback in the caller's, so that
    what the callback raises stops the caller like any error, and then the work.
    """

    def __init__(self, sizes: Mapping[str, int], progress: Progress, threads: int = 1) -> None:
        self._sizes, self._done = dict(sizes), dict.fromkeys(sizes, 0)
        self._progress = progress
        self._is_over = False
        self._pool = ThreadPoolExecutor(threads)
        self._begun: list[Future[object]] = []
        self._wakers: list[Callable[[], object]] = []

    def begin(self, call: Callable[..., _T], *arguments: object) -> Future[_T]:
        """Have a call made when a thread has ended those begun before."""
        future = self._pool.submit(self._call, call, *arguments)
        self._begun.append(future)  # type: ignore[arg-type]  # a result is an object
        return future

    def result(self, future: Future[_T]) -> _T:
        """Wait for the result of a call, and tell the progress meanwhile."""
        while wait([future], _TICK_SECONDS).not_done:
            check_stop()
            self.tell()
        self.tell()
        return future.result()

    def note(self, name: str, done: int) -> None:
        """Note that this much of a file is done, if that is more than before.

        Raises:
            GivenUpError: nobody waits for it any more.
        """
        self.check()
        if name in self._sizes:
            self._done[name] = max(self._done[name], min(done, self._sizes[name]))

    def complete(self, name: str) -> None:
        """Note that a file is done."""
        self.note(name, self._sizes.get(name, 0))

    def check(self) -> None:
        """Go on only if somebody waits for the result.

        Raises:
            GivenUpError: nobody does any more.
        """
        if self._is_over:
            raise GivenUpError

    @contextmanager
    def woken(self, wake: Callable[[], object]) -> Iterator[None]:
        """A block that waits for others: `wake` ends that, called when the work is given up.

        Raises:
            GivenUpError: it has been.
        """
        self._wakers.append(wake)
        try:
            self.check()  # after the line above, so that one of both is never too late
            yield
        except Exception:
            self.check()  # what came of the waking is no error of its own
            raise
        finally:
            self._wakers.remove(wake)

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
        for wake in list(self._wakers):
            wake()
        wait(begun, _PATIENCE_SECONDS)

    def _call(self, call: Callable[..., _T], *arguments: object) -> _T:
        _CURRENT.set(self)  # in a thread that makes no other calls
        return call(*arguments)


_CURRENT: ContextVar[Work | None] = ContextVar("_CURRENT", default=None)


def current_work() -> Work | None:
    """The work that this thread does, if it is one of its threads."""
    return _CURRENT.get()


@contextmanager
def working(sizes: Mapping[str, int], progress: Progress, threads: int = 1) -> Iterator[Work]:
    """Work on files of the given sizes, of which nothing goes on after the block.

    What waits for an answer of the network may do so for some time, and ends then.
    """
    work = Work(sizes, progress, threads)
    try:
        work.tell()
        yield work
    finally:
        work.give_up()
