"""Options as messages name them: as on the command line while it runs, and else as in Python.

The same goes for a command that is advised: it is one for a shell, or a call.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

#: The options with another name on the command line than that of Python with other marks.
_OTHERS = {"lam": "--lambda", "weights": "--weight", "max_shard_bytes": "--max-shard-size"}
#: What to do in the commands that begin with a model, where an adapter was given for it.
_BASE_FIRST = {
    "merge": "the base comes first: loratools merge BASE {} -o OUT",
    "swap": "the base comes first: loratools swap BASE --in {}",
    "svd-extract": "it takes two models: loratools svd-extract MODEL BASE --rank 16 -o OUT",
}
_is_on_command_line = False
_verb = ""


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


def rank_options() -> str:
    """The options that say how many ranks to keep."""
    *names, last = map(valued, ("rank", "energy", "error", "size"))
    return f"{', '.join(names)} or {last}"


def worded(shell: str, python: str) -> str:
    """The first text on the command line, and else the second."""
    return shell if _is_on_command_line else python


def base_first(adapter: str) -> str:
    """What to type where an adapter was given for a base."""
    if not _is_on_command_line:
        return f"give the base first, as in merge(base, {adapter!r}), or two models to svd_extract"
    if _verb not in _BASE_FIRST:
        return "name the model that it was trained on"
    return _BASE_FIRST[_verb].format(shlex.quote(adapter))


@contextmanager
def running(verb: str) -> Iterator[None]:
    """Advise the command with this name."""
    global _verb  # noqa: PLW0603 - a process runs one at a time
    before, _verb = _verb, verb
    try:
        yield
    finally:
        _verb = before


@contextmanager
def on_command_line() -> Iterator[None]:
    """Name options as on the command line, in this process and all of its threads."""
    global _is_on_command_line  # noqa: PLW0603 - the process is one or the other
    before, _is_on_command_line = _is_on_command_line, True
    try:
        yield
    finally:
        _is_on_command_line = before
