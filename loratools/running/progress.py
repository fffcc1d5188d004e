"""Progress of a verb, which is told to a callback, or shown as a bar on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import NoReturn, ParamSpec, TypeVar

#: The argument `progress` of a verb: a callback for the work done and the work in all, or True for
#: a bar on stderr. What a callback raises stops the verb.
Progress = Callable[[int, int], object] | bool | None

#: `12/70 targets [00:03<00:12]`: the time that is left says more than a rate of targets.
_COUNTED = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]"

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callback that shows a bar on stderr, which is gone after the block; `B` are bytes.

    It appears with the first call, so that there is none if a verb refuses what it is given.
    """
    from tqdm import tqdm

    with ExitStack() as stack:
        shown: tqdm[NoReturn] | None = None

        def show(done: int, total: int) -> None:
            nonlocal shown
            if shown is None:
                made: tqdm[NoReturn] = tqdm(
                    total=total,
                    unit=unit,
                    unit_scale=unit == "B",
                    bar_format=None if unit == "B" else _COUNTED,
                    miniters=0,  # so that the clock goes on while nothing is done
                    smoothing=0,  # then only the mean speed says how long the rest takes
                    leave=False,
                )
                shown = stack.enter_context(made)
            shown.update(done - shown.n)

        yield show


def shows_progress(
    unit: str | Callable[..., str],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator of verbs: with `progress=True` the verb gets the callback of a bar.

    `unit` is that of the numbers that the verb tells, or finds it by the verb's arguments.
    """

    def decorated(verb: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(verb)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            progress = kwargs.get("progress")
            if not isinstance(progress, bool):
                return verb(*args, **kwargs)
            named = unit if isinstance(unit, str) else unit(*args, **kwargs)
            with bar(named) if progress else nullcontext() as callback:
                kwargs["progress"] = callback
                return verb(*args, **kwargs)

        return call

    return decorated
