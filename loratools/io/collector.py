"""Pause Python's collector of cyclic garbage while many objects are built."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Python 3.12 begins with some 400 frozen objects of its own; a program that freezes has thousands.
_FROZEN_BY_PYTHON = 1000


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector in a block that builds hundreds of thousands of small objects.

    None of them is garbage, and searching them for some would take as long as building them. If
    another thread ends a pause of its own, this one ends too, which does no harm.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            _move_to_oldest_generation()
            gc.enable()


def _move_to_oldest_generation() -> None:
    """Keep the collector from searching the new objects at once, as it does with young ones.

    Freezing takes all objects out of the collector's generations, and unfreezing puts them into the
    oldest one, whatever their age; both take no time.
    """
    # More are frozen where the program has frozen its objects, which must stay so.
    if gc.get_freeze_count() < _FROZEN_BY_PYTHON:
        gc.freeze()
        gc.unfreeze()
