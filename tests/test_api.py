"""The front page of the Python API: what it names, and what it costs to import."""

import ast
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import torch

import loratools
from loratools import errors, registry
from loratools.cli import verbs

ROOT = Path(__file__).parent.parent
#: What a person would not notice is about 0.4 s on a quiet machine; others may be at work on this.
PROMPT = 1.5
HEAVY = {"torch", "numpy", "huggingface_hub", "safetensors"}


#: The verbs that are functions; `formats` is a package, in which Python finds what the verb lists.
#: Functions that give an adapter.
OPENING = ("open_adapter", "adapter_from_tensors")
VERBS = tuple(name for name in registry.names(verbs) if name != "formats")
PUBLIC = {name: getattr(loratools, name) for name in loratools.__all__}


def types_in(annotation: object) -> Iterator[type]:
    """The types of ours that an annotation names."""
    kind = get_origin(annotation) or annotation
    if isinstance(kind, type) and kind.__module__.startswith("loratools."):
        yield kind
    # Those of a Callable are a list.
    for each in annotation if isinstance(annotation, list) else get_args(annotation):
        yield from types_in(each)


def annotations(of: object) -> dict[str, object]:
    return get_type_hints(of, localns=PUBLIC | {"torch": torch})


def taken_and_returned() -> set[str]:
    """The names of what verbs take, down to the fields of options, and of what they return."""
    assert set(VERBS) <= set(PUBLIC), (
        "a verb is a public name: see the table in loratools/__init__.py"
    )
    functions = [annotations(PUBLIC[name]) for name in (*VERBS, "open_adapter")]
    returned = {kind for hints in functions for kind in types_in(hints.pop("return"))}
    found = set(returned)
    left = [each for hints in functions for hint in hints.values() for each in types_in(hint)]
    while left:
        kind = left.pop()
        if kind not in found:
            found.add(kind)
            left.extend(each for hint in annotations(kind).values() for each in types_in(hint))
    return {kind.__name__ for kind in found}


def test_public_are_the_verbs_what_they_take_and_return_and_the_errors_and_nothing_else() -> None:
    kinds = [c for c in vars(errors).values() if isinstance(c, type)]
    raised = {c.__name__ for c in kinds if issubclass(c, errors.LoratoolsError)}
    assert set(loratools.__all__) == {*VERBS, *OPENING, "Target"} | taken_and_returned() | raised


def test_each_public_name_is_written_once() -> None:
    listed = [name for names in vars(loratools)["_PUBLIC"].values() for name in names]
    assert loratools.__all__ == sorted(set(listed))
    assert len(listed) == len(set(listed))


def test_public_name_is_imported_from_where_it_is_defined() -> None:
    for module, names in vars(loratools)["_PUBLIC"].items():
        assert {PUBLIC[name].__module__ for name in names} == {module}


@pytest.mark.parametrize("name", loratools.__all__)
def test_public_name_exists_with_a_docstring(name: str) -> None:
    value = getattr(loratools, name)
    assert value.__name__ == name
    assert len(value.__doc__ or "") > 20
    assert not (value.__doc__ or "").startswith(f"{name}("), "made by dataclass, not by a person"


def test_dir_has_the_public_names_and_no_other() -> None:
    assert {name for name in dir(loratools) if not name.startswith("_")} == set(loratools.__all__)


def test_type_checkers_see_the_same_names() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "make_stub.py"))
    assert made["STUB"].read_text(encoding="utf-8") == made["stub"]()
    tree = ast.parse(made["stub"]())
    seen = [a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names]
    assert sorted(seen) == sorted([*loratools.__all__, "__version__", "errors"])


def test_the_module_that_the_help_of_verbs_names_is_there_without_an_import() -> None:
    assert "see `loratools.errors`" in str(loratools.resize.__doc__)
    found = "import loratools; print(loratools.errors.LoratoolsError.__name__)"
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, check=True, cwd=ROOT)
    assert done.stdout.split() == [b"LoratoolsError"]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'loratools' has no attribute 'mrege'"):
        getattr(loratools, "mrege")  # noqa: B009


def test_every_name_can_be_imported_with_a_star() -> None:
    names: dict[str, object] = {}
    exec("from loratools import *", names)
    assert set(loratools.__all__) <= names.keys()


def test_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert loratools.version.__version__ == version("loratools")


# Costs


def imported_by(*arguments: str) -> set[str]:
    """The modules that a run of Python imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, check=True, cwd=ROOT
    )
    lines = done.stderr.decode(errors="replace").splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def seconds(*arguments: str) -> float:
    """The best of three runs."""
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True, cwd=ROOT)
        times.append(time.perf_counter() - begin)
    return min(times)


COMMANDS = pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "loratools", "--help"),
        ("-m", "loratools", "--version"),
        ("-m", "loratools", "merge", "--help"),
        ("-m", "loratools", "combine", "--help"),
        ("-m", "loratools", "inspect", "fixtures/adapters/plain"),
        ("-m", "loratools", "inspect", "fixtures/adapters/dora", "--json"),
        (
            *("-m", "loratools", "inspect", "fixtures/adapters/plain"),
            *("--base", "fixtures/stories260k-bf16-sharded"),
        ),
    ],
    ids=" ".join,
)


def test_importing_the_package_imports_nothing_heavy() -> None:
    imported = imported_by("-c", "import loratools")
    assert "loratools" in imported
    assert imported & (HEAVY | {"click", "rich"}) == set()
    assert [name for name in imported if name.startswith("loratools.")] == ["loratools.version"]


@COMMANDS
def test_command_that_reads_no_values_does_not_import_torch(arguments: tuple[str, ...]) -> None:
    imported = imported_by(*arguments)
    assert "loratools.cli" in imported
    assert imported & HEAVY == set()


@COMMANDS
def test_command_that_reads_no_values_is_prompt(arguments: tuple[str, ...]) -> None:
    assert seconds(*arguments) < PROMPT


def test_opening_an_adapter_reads_no_values() -> None:
    code = (
        "import loratools\n"
        "adapter = loratools.open_adapter('fixtures/adapters/dora')\n"
        "assert adapter.kinds == ('DoRA',)\n"
    )
    assert imported_by("-c", code) & HEAVY == set()


def test_listing_the_commands_imports_none_of_them() -> None:
    imported = imported_by("-m", "loratools", "--help")
    assert [name for name in imported if name.startswith("loratools.cli.verbs.")] == []
    assert imported & {"pathlib", "json", "statistics", "fractions"} == set()


def test_help_on_a_command_imports_only_what_its_options_need() -> None:
    imported = imported_by("-m", "loratools", "merge", "--help")
    assert imported & {"pathlib", "json", "statistics", "fractions"} == set()


def test_inspecting_an_adapter_by_itself_imports_nothing_of_other_verbs() -> None:
    imported = imported_by("-m", "loratools", "inspect", "fixtures/adapters/plain")
    others = ("merging", "extracting", "reshaping", "methods", "lowrank", "publishing")
    families = {name.split(".")[1] for name in imported if name.startswith("loratools.")}
    assert "describing" in families
    assert families & set(others) == set()
