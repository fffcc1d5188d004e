"""Progress of a verb, which is told to a callback, or shown as a bar on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

#: The argument `progress` of a verb: a callback for the work done and the work in all, or True for
#: a bar on stderr. What a callback raises stops the verb.
Progress = Callable[[int, int], object] | bool | None

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callback that shows a bar on stderr, which is gone after the block; `B` are bytes."""
    from tqdm import tqdm

    with tqdm(unit=unit, unit_scale=unit == "B", leave=False) as shown:

        def show(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield show


def shows_progress(unit: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator of verbs: with `progress=True` the verb gets the callback of a bar."""

    def decorated(verb: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(verb)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            progress = kwargs.get("progress")
            if not isinstance(progress, bool):
                return verb(*args, **kwargs)
            with bar(unit) if progress else nullcontext() as callback:
                kwargs["progress"] = callback
                return verb(*args, **kwargs)

        return call

    return decorated
