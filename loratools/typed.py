"""Options as messages name them: as on the command line while it runs, and else as in Python.

The same goes for a command that is advised: it is one for a shell, or a call.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

#: The options with another name on the command line than that of Python with other marks.
_OTHERS = {
    "all_files": "--all",
    "lam": "--lambda",
    "max_shard_bytes": "--max-shard-size",
    "weights": "--weight",
}
#: The options that are no arguments in Python, but fields of an object that is one.
_FIELDS = {
    "all_files": "PushOptions",
    "allow_nonfinite": "WriteOptions",
    "balance": "Rescaling",
    "branch": "PushOptions",
    "full": "ExtractOptions",
    "keep_replaced": "Rescaling",
    "max_shard_bytes": "WriteOptions",
    "only_changed": "WriteOptions",
    "replaced": "Combination",
}
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
    if _is_on_command_line:
        return as_typed(name)
    return _given(name, "…") if name in _FIELDS else f"{name}="


def flag(name: str) -> str:
    """An option that is switched on: `overwrite=True`, or `--overwrite` in a shell."""
    return as_typed(name) if _is_on_command_line else _given(name, "True")


def option(name: str, value: str | float) -> str:
    """An option with its value: `dtype='float32'`, or `--dtype float32` in a shell."""
    typed = value if isinstance(value, str) else f"{value:g}"
    if _is_on_command_line:
        return f"{as_typed(name)} {typed}"
    return _given(name, repr(value) if isinstance(value, str) else typed)


def one_of(name: str, item: str) -> str:
    """An option that takes several values, with one: `skip=['*.q']`, or `--skip '*.q'`."""
    return f"{as_typed(name)} {item!r}" if _is_on_command_line else _given(name, repr([item]))


def of_format(name: str, value: str | None = None) -> str:
    """An option of a format: `dialect_options={'scale': '20'}`, or `--scale 20` in a shell."""
    if not _is_on_command_line:
        return f"dialect_options={{{name!r}: {'…' if value is None else repr(value)}}}"
    return as_typed(name) if value is None else f"{as_typed(name)} {value}"


def command(verb: str, *options: str) -> str:
    """A verb with options that functions here have worded: `convert(dtype=)`."""
    if _is_on_command_line:
        return " ".join(["loratools", verb, *options])
    return f"{verb.replace('-', '_')}({', '.join(options)})"


def folding() -> str:
    """The call that puts the scaling into the factors."""
    return worded("`rescale --fold`", "`rescale(fold=True)`")


def repairing(trap: str | None = None) -> str:
    """The call that repairs a trap, or whatever traps there are."""
    if trap is None:
        return worded("`rescale --repair`", "`rescale(repair='all')`")
    return worded(f"`rescale --repair {trap}`", f"`rescale(repair={[trap]!r})`")


def drop_residual() -> str:
    """The option to leave out what has no place in a LoRA."""
    return worded("--residual drop", "ExtractOptions(keep_residual=False)")


def without_lost(field: str, lost: str = "it") -> str:
    """How to go on with an adapter whose config announces what is not stored."""
    return (
        f"to go on without {lost}, change {field} in a copy of the config, and name the copy with "
        f"{valued('config')}"
    )


def see_base() -> str:
    """Where to read on a base that decides what names mean."""
    return f"see {valued('base')}"


def merging() -> str:
    """A merge into an output of its own."""
    return worded("loratools merge -o", "merge(…, output=…)")


def completing_swap(model: str) -> str:
    """What completes a swap that was interrupted."""
    return worded(f"loratools swap {model}", f"swap({model!r})")


def pushing() -> str:
    """What sends files to the Hub."""
    return worded("loratools push", "loratools.push")


def fetching_once() -> str:
    """How to have a file of the Hub here when there is no network."""
    switches = worded("--offline and HF_HUB_OFFLINE", "HF_HUB_OFFLINE")
    return f"fetch it once without {switches}"


def inspecting(path: str) -> str:
    """A look at an adapter, with all that is wrong with it."""
    return worded(f"loratools inspect --check {shlex.quote(path)}", f"inspect({path!r})")


def rank_options() -> str:
    """The options that say how many ranks to keep."""
    *names, last = map(valued, ("rank", "energy", "error", "size"))
    return f"{', '.join(names)} or {last}"


def worded(shell: str, python: str) -> str:
    """The first text on the command line, and else the second."""
    return shell if _is_on_command_line else python


def _given(name: str, value: str) -> str:
    """An argument of Python, or the object that has it as a field."""
    argument = f"{name}={value}"
    return f"{_FIELDS[name]}({argument})" if name in _FIELDS else argument


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
