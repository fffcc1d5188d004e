"""Python's collector of cyclic garbage, kept from looking through what is being built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Hundreds of thousands of small objects, none of them garbage: looking for it takes as long.

    A pause ends too early, and does no harm, where another thread ends one of its own.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _take_for_old()
            gc.enable()


def _take_for_old() -> None:
    """See that what was built is not looked through at once, as if it were about to be garbage.

    The collector keeps the objects it knows in generations. Freezing takes all of them out, and
    unfreezing puts them into the oldest one, whatever their age; both are done in no time.
    """
    if gc.get_freeze_count() == 0:  # else somebody keeps objects frozen
        gc.freeze()
        gc.unfreeze()
