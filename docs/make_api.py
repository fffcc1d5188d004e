"""Make the pages of the Python reference: one for each public name, and a list for each section.

Sphinx has them made before it reads any page. They are not kept, since all they say is said in
docstrings, in signatures and in the help of the command line.
"""

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import click
import numpy
import torch
from numpy.typing import NDArray

import loratools
from loratools.cli import cli, failures
from loratools.formats import options as dialect_options

FOLDER = Path(__file__).parent / "reference" / "api"

#: Types of parts of results, which are not public names by themselves.
PARTS = (
    "loratools.parts.Note",
    "loratools.describing.coverage.Coverage",
    "loratools.describing.groups.TargetGroup",
    "loratools.describing.rows.InspectionRow",
    "loratools.describing.spectrum.TargetSpectrum",
    "loratools.files.swapped.SwappedIn",
    "loratools.files.writing.Written",
    "loratools.lowrank.spectrum.Spectrum",
    "loratools.lowrank.truncation.Truncation",
    "loratools.merging.fidelity.Fidelity",
    "loratools.merging.taken_back.TakenBack",
    "loratools.reshaping.certificates.Certificates",
    "loratools.reshaping.compared.Comparison",
    "loratools.reshaping.similarity.Angles",
    "loratools.reshaping.similarity.Similarity",
)
#: Methods and properties that are for loratools itself, and not on a class's page.
INTERNAL = {
    "Fidelity": ("of", "combined"),
    "MergeOptions": ("selects", "stored_dtype"),
}
#: Options of commands that have another name in Python.
RENAMED = {"max_shard_size": "max_shard_bytes"}
#: Options of one command that are not the argument of the same name.
ELSEWHERE = {("rescale", "rule"): "rescaling.rule"}
#: Options of commands for which Python has no argument, and what it has.
INSTEAD = {
    "as_json": "`to_json()` of the report",
    "dry_run": "no `output`",
    "offline": "`HF_HUB_OFFLINE=1` in the environment",
    "quiet": "functions print nothing",
    "verbose": "attributes of the report",
    "version": "`loratools.__version__`",
    "modules": "attributes of the report",
    "as_list": "a list of one `adapter`",
    "check": "`is_sound` of the report",
    "rounding": "a `write.seed` rounds stochastically, and None to nearest",
    "in_place": "[`loratools.swap`](swap.md)",
    "out": "an empty list of `adapters`",
    "residual": "`options.keep_residual`",
    "no_card": "`options.card`, which is False then",
}
#: The guides of the commands that have none of their own.
GUIDES = {"pull": "hub", "push": "hub"}


@dataclass(frozen=True)
class Entry:
    """A documented object, under its full name: `loratools.merge`."""

    name: str
    value: Any

    @property
    def title(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def docstring(self) -> str:
        """The docstring without its indentation."""
        return inspect.getdoc(self.value) or ""

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        paragraph = " ".join(self.docstring.partition("\n\n")[0].split())
        return re.split(r"(?<=[.;:]) ", paragraph)[0].rstrip(".;:")

    @property
    def command(self) -> click.Command | None:
        """The command of the same name, for a verb."""
        return cli.get_command(click.Context(cli), self.title.replace("_", "-"))


@cache
def entries() -> dict[str, list[Entry]]:
    """The objects of each section; the public names are in alphabetical order."""
    public = [Entry(f"loratools.{n}", getattr(loratools, n)) for n in loratools.__all__]
    functions = [entry for entry in public if inspect.isfunction(entry.value)]
    errors = [entry for entry in public if is_error(entry.value)]
    hints = [_hints(entry.value)["return"] for entry in functions]
    returned = {loratools.Target}.union(*map(kinds_in, hints))  # a Target is in an Adapter
    classes = [entry for entry in public if entry not in (*functions, *errors)]
    return {
        "verbs": functions,
        "options": [entry for entry in classes if entry.value not in returned],
        "results": [entry for entry in classes if entry.value in returned],
        "parts": [Entry(name, _imported(name)) for name in PARTS],
        "errors": errors,
    }


def is_error(value: object) -> bool:
    """Whether it is a class of errors."""
    return isinstance(value, type) and issubclass(value, Exception)


def pages() -> dict[str, str]:
    """The text of each page, and of each section's list, by the name of its file."""
    found = {
        f"{entry.title}.md": page(entry) for section in entries().values() for entry in section
    }
    return found | {f"{name}.inc": listed(section) for name, section in entries().items()}


def listed(section: list[Entry]) -> str:
    """The pages of a section, for `reference/api.md` to include: a table of links."""
    rows = [f"| [`{entry.title}`](api/{entry.title}.md) | {entry.summary} |" for entry in section]
    links = [f"api/{entry.title}" for entry in section]
    return "\n".join(
        ["| name | |", "|---|---|", *rows, "", "```{toctree}", ":hidden:", *links, "```", ""]
    )


def page(entry: Entry) -> str:
    """A page: what sphinx makes of the docstring, and what other places know of the object."""
    parts = [f"# {entry.title}", _directive(entry), *_sections(entry)]
    return "\n\n".join(parts) + "\n"


def _directive(entry: Entry) -> str:
    if inspect.isfunction(entry.value):
        lines = [f".. autofunction:: {entry.name}"]
    elif is_error(entry.value):
        lines = [f".. autoexception:: {entry.name}", "   :show-inheritance:"]
    else:
        internal = INTERNAL.get(entry.title, ())
        excluded = [f"   :exclude-members: {', '.join(internal)}"] if internal else []
        # With empty parentheses where nobody is to call it.
        call = "" if entry in entries()["options"] else "()"
        lines = [f".. autoclass:: {entry.name}{call}", "   :members:", *excluded]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def _sections(entry: Entry) -> Iterator[str]:
    if is_error(entry.value):
        yield f"The command line then ends with [exit code](../exit-codes.md) {exit_code(entry)}."
        yield f"```python\ntry:\n    ...\nexcept {entry.name} as error:\n    print(error)\n```"
    if inspect.isfunction(entry.value) and entry.command is not None:
        yield "## On the command line"
        yield "\n".join(_command_table(entry))
    if not is_error(entry.value) and not example_in(entry.docstring) and makers(entry):
        maker = makers(entry)[0]
        yield f"```python\n{example_in(maker.docstring)}\n```"
    for title, users in (("Taken by", takers(entry)), ("Returned by", makers(entry))):
        if users:
            yield f"{title} " + ", ".join(f"[`{user.name}`]({user.title}.md)" for user in users)


def example_in(docstring: str) -> str:
    """The example of a docstring, in the interpreter; empty without one."""
    match = re.search(r"^Example:\n((?: {4}.*\n?)+)", docstring, re.MULTILINE)
    return textwrap.dedent(match[1]).rstrip() if match else ""


def exit_code(entry: Entry) -> int:
    """The exit code that the command line gives an error."""
    return failures.exit_code(entry.value())


def takers(entry: Entry) -> list[Entry]:
    """The functions that take such options, or others in which they are."""
    if entry not in entries()["options"]:
        return []
    return [each for each in entries()["verbs"] if entry.value in _options_of(each.value)]


def makers(entry: Entry) -> list[Entry]:
    """The functions that return such an object."""
    functions = entries()["verbs"]
    return [each for each in functions if entry.value in kinds_in(_hints(each.value)["return"])]


def _options_of(taker: Any) -> Iterator[type]:
    """The classes of options that a function takes, and those in their fields."""
    known = {entry.value for entry in entries()["options"]}
    for name, hint in _hints(taker).items():
        for kind in kinds_in(hint):
            if name != "return" and kind in known:
                yield kind
                yield from _options_of(kind)


# --- options of the command line -------------------------------------------------------------


@dataclass(frozen=True)
class Counterpart:
    """An option of a command, and what it is in Python.

    Attributes:
        option: the option, as Click knows it.
        argument: the function's argument: `overwrite`, or `options.dtype` for a field; None if
            there is none.
        words: what the docstring says of it.
    """

    option: click.Option
    argument: str | None
    words: str = ""


def counterparts(entry: Entry) -> Iterator[Counterpart]:
    """Each option of a verb's command, with the argument that does the same."""
    assert entry.command is not None
    arguments = dict(_arguments(entry.value))
    for option in entry.command.params:
        if not isinstance(option, click.Option) or option.name == "help":
            continue
        name = RENAMED.get(str(option.name), str(option.name))
        same = (path for path in arguments if path.rpartition(".")[2] == name)
        path = ELSEWHERE.get((entry.title, name)) or next(same, None)
        yield Counterpart(option, path, arguments.get(path or "", ""))


def _arguments(function: Any) -> Iterator[tuple[str, str]]:
    """The function's arguments, and those of its options as `options.dtype`, with their words."""
    described = described_in(inspect.getdoc(function) or "")
    hints = _hints(function)
    for name in inspect.signature(function).parameters:
        yield name, described.get(name, "")
    for name in inspect.signature(function).parameters:
        for kind in kinds_in(hints[name]):
            if kind in {each.value for each in entries()["options"]}:
                yield from _fields(name, kind)


def _fields(path: str, kind: type) -> Iterator[tuple[str, str]]:
    described = described_in(inspect.getdoc(kind) or "")
    hints = _hints(kind)
    for field in fields(kind) if is_dataclass(kind) else ():
        yield f"{path}.{field.name}", described.get(field.name, "")
        for inner in kinds_in(hints[field.name]):
            if inner in {each.value for each in entries()["options"]}:
                yield from _fields(f"{path}.{field.name}", inner)


def described_in(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument or attribute, by name, on one line."""
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:(?: .*)?\n?)+)", docstring, re.M):
        for entry in re.split(r"\n(?= {4}\S)", section.rstrip("\n")):
            name, _, text = " ".join(entry.split()).partition(": ")
            found[name] = text
    return found


def _command_table(entry: Entry) -> Iterator[str]:
    command = entry.title.replace("_", "-")
    guide = GUIDES.get(command, command)
    of_formats = {option.name for option in dialect_options()}
    yield f"[`loratools {command}`](../../how-to/{guide}.md) has these options:"
    yield ""
    yield "| option | in Python |"
    yield "|---|---|"
    for each in counterparts(entry):
        flags = ", ".join(f"`{flag}`" for flag in (*each.option.opts, *each.option.secondary_opts))
        name = str(each.option.name)
        if each.argument is not None:
            meant = f"`{each.argument}`"
        elif name in of_formats:
            meant = f'`dialect_options`, under `"{name}"`'
        else:
            meant = INSTEAD.get(name, "–")
        yield f"| {flags} | {meant} |"


# --- types -----------------------------------------------------------------------------------


def kinds_in(annotation: object) -> Iterator[type]:
    """The classes of loratools that an annotation names."""
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and kind.__module__.startswith("loratools."):
        yield kind
    # Those of a Callable are a list.
    for each in annotation if isinstance(annotation, list) else get_args(annotation):
        yield from kinds_in(each)


@cache
def _hints(of: Any) -> Mapping[str, object]:
    names = {name: getattr(loratools, name) for name in loratools.__all__}
    names |= {"torch": torch, "np": numpy, "Tensor": torch.Tensor, "NDArray": NDArray}
    return get_type_hints(of, localns=names)


def _imported(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def write() -> None:
    """Write all pages anew, and remove those of objects that are gone."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
