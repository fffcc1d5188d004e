"""How far a command is, on a terminal; and where it can be stopped."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import click

from loratools.cli.signals import Stoppable


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; and the place where a signal stops the command."""
    stoppable = click.get_current_context().find_object(Stoppable)
    with contextlib.ExitStack() as shown:
        bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            bar = shown.enter_context(tqdm(unit="B", unit_scale=True, leave=False))

        def progress(done: int, total: int) -> None:
            if stoppable is not None:
                stoppable.check()
            if bar is not None:
                bar.total = total
                bar.update(done - bar.n)

        yield progress
