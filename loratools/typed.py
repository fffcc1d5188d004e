"""Options as messages name them: as on the command line while it runs, and else as in Python."""

from collections.abc import Iterator
from contextlib import contextmanager

#: The options with another name on the command line than that of Python with other marks.
_OTHERS = {"lam": "--lambda", "weights": "--weight", "max_shard_bytes": "--max-shard-size"}
_is_on_command_line = False


def as_typed(name: str) -> str:
    """An option as the reader of a message types it: `min_rank`, or `--min-rank` in a shell."""
    if not _is_on_command_line:
        return name
    return _OTHERS.get(name, f"--{name.replace('_', '-')}")


def valued(name: str) -> str:
    """An option that needs a value, for advice to give it: `base=`, or `--base` in a shell."""
    return as_typed(name) if _is_on_command_line else f"{name}="


def flag(name: str) -> str:
    """An option that is switched on: `overwrite=True`, or `--overwrite` in a shell."""
    return as_typed(name) if _is_on_command_line else f"{name}=True"


@contextmanager
def on_command_line() -> Iterator[None]:
    """Name options as on the command line, in this process and all of its threads."""
    global _is_on_command_line  # noqa: PLW0603 - the process is one or the other
    before, _is_on_command_line = _is_on_command_line, True
    try:
        yield
    finally:
        _is_on_command_line = before
