"""The front page of the Python API: what it names, and what it costs to import."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import loratools

ROOT = Path(__file__).parent.parent
#: What a person would not notice is about 0.4 s on a quiet machine; others may be at work on this.
PROMPT = 1.5
HEAVY = {"torch", "numpy", "huggingface_hub", "safetensors"}


def test_public_names_are_few_and_sorted() -> None:
    assert list(loratools.__all__) == sorted(loratools.__all__)
    assert len(set(loratools.__all__)) == len(loratools.__all__) <= 20


@pytest.mark.parametrize("name", loratools.__all__)
def test_public_name_exists_with_a_docstring(name: str) -> None:
    value = getattr(loratools, name)
    assert value.__name__ == name
    assert len(value.__doc__ or "") > 20
    assert not (value.__doc__ or "").startswith(f"{name}("), "made by dataclass, not by a person"


@pytest.mark.parametrize("name", loratools.__all__)
def test_public_name_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    # With empty parentheses where nobody is to call it.
    assert f":: loratools.{name}\n" in page or f":: loratools.{name}()\n" in page


def test_dir_has_the_public_names_and_no_other() -> None:
    assert {name for name in dir(loratools) if not name.startswith("_")} == set(loratools.__all__)


def test_type_checkers_see_the_names_that_are_imported_when_used() -> None:
    tree = ast.parse(Path(loratools.__file__).read_text(encoding="utf-8"))
    (for_checkers,) = (
        node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)
    )
    seen = {
        alias.name: node.module
        for node in for_checkers.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == loratools._HOMES
    assert set(seen) == set(loratools.__all__)


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
