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
            gc.enable()
