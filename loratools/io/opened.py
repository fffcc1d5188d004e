"""Tell listeners of each input file that is opened, for `-v`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Called with the path and the size in bytes, in whichever thread opens the file.
Listener = Callable[[Path, int], object]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block, `listener` is told of each file that is opened."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(path: Path, size: int) -> None:
    """Tell the listeners that a file of `size` bytes was opened."""
    for listener in tuple(_listeners):
        listener(path, size)
