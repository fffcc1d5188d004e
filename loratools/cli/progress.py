"""How far a command is, on a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from loratools.io.stopping import check_stop


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; both stop a command that was asked to."""
    with contextlib.ExitStack() as shown:
        bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            bar = shown.enter_context(tqdm(unit="B", unit_scale=True, leave=False))

        def progress(done: int, total: int) -> None:
            check_stop()  # what is computed for long reads and writes nothing
            if bar is not None:
                bar.total = total
                bar.update(done - bar.n)

        yield progress
