"""The progress bar of a command."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from loratools.io.stopping import check_stop


@contextlib.contextmanager
def progress_bar(unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """A progress callback: a bar if stderr is a terminal; it raises if a signal asked to stop.

    `unit` is that of the numbers that the callback gets.
    """
    with contextlib.ExitStack() as shown:
        bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            bar = shown.enter_context(tqdm(unit=unit, unit_scale=unit == "B", leave=False))

        def progress(done: int, total: int) -> None:
            check_stop()  # reads and writes ask too, but long computations have none
            if bar is not None:
                bar.total = total
                bar.update(done - bar.n)

        yield progress
