"""The progress bar of a command."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from loratools.io.stopping import check_stop


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress callback: a bar if stderr is a terminal; it raises if a signal asked to stop."""
    with contextlib.ExitStack() as shown:
        bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            bar = shown.enter_context(tqdm(unit="B", unit_scale=True, leave=False))

        def progress(done: int, total: int) -> None:
            check_stop()  # reads and writes ask too, but long computations have none
            if bar is not None:
                bar.total = total
                bar.update(done - bar.n)

        yield progress
