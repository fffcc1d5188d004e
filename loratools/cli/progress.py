"""The progress bar of a command."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import click

from loratools.cli.verbosity import is_quiet
from loratools.io.stopping import check_stop


@contextlib.contextmanager
def progress_bar(unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """A progress callback: a bar if a person sees it; it raises if a signal asked to stop.

    Nobody does if stderr is no terminal, with `-q`, and with `--json`, which is for programs.
    `unit` is that of the numbers that the callback gets.
    """
    with contextlib.ExitStack() as shown:
        show: Callable[[int, int], None] | None = None
        if sys.stderr.isatty() and not is_quiet() and not _is_for_programs():
            from loratools.running.progress import bar

            show = shown.enter_context(bar(unit))

        def progress(done: int, total: int) -> None:
            check_stop()  # reads and writes ask too, but long computations have none
            if show is not None:
                show(done, total)

        yield progress


def _is_for_programs() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get("as_json"))
