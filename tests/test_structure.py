"""Modules import each other in one direction, and none of them needs the whole package."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import loratools
from loratools import formats, methods, registry
from loratools.cli import verbs
from loratools.formats.peft import kinds

PACKAGE = Path(loratools.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(name: str, text: str, modules: set[str]) -> Iterator[str]:
    """The modules that another one imports: in functions and for type checkers, too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative imports are not used"
            inner = [(node.module or "", alias.name) for alias in node.names]
            found = [m if f"{m}.{n}" not in modules else f"{m}.{n}" for m, n in inner]
        else:
            continue
        yield from (module for module in found if module in modules)


def graph(texts: dict[str, str]) -> dict[str, set[str]]:
    return {name: set(imports(name, text, set(texts))) for name, text in texts.items()}


def cycle(texts: dict[str, str]) -> list[str]:
    """The names of modules that import each other in a circle."""
    try:
        graphlib.TopologicalSorter(graph(texts)).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


PACKAGE_TEXTS = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert len(PACKAGE_TEXTS) > 100
    assert cycle(PACKAGE_TEXTS) == []


@pytest.mark.parametrize(
    "way",
    [
        "from p.a import thing",
        "import p.a",
        "def function():\n    from p import a",
        "if TYPE_CHECKING:\n    from p.a import thing",
    ],
)
def test_a_circle_is_found_however_modules_are_imported(way: str) -> None:
    assert set(cycle({"p": "", "p.a": "from p.b import other", "p.b": way})) == {"p.a", "p.b"}


def test_no_module_needs_the_whole_package() -> None:
    """Its version, for one, is in a module of its own."""
    needing = [name for name, found in graph(PACKAGE_TEXTS).items() if "loratools" in found]
    assert needing == []


@pytest.mark.parametrize("package", [formats, kinds, methods, verbs], ids=lambda p: p.__name__)
def test_no_plug_in_is_imported_by_name(package: ModuleType) -> None:
    """Not by another, nor by what they share; so one can be added, or removed, by itself."""
    plug_ins = {f"{package.__name__}.{name}" for name in registry.names(package)}
    assert len(plug_ins) > 1
    crossing = [
        f"{importing} imports {imported}"
        for importing, found in graph(PACKAGE_TEXTS).items()
        for imported in found
        if (plug_in := owner(imported, plug_ins)) and owner(importing, plug_ins) != plug_in
    ]
    assert crossing == []


def owner(module: str, plug_ins: set[str]) -> str | None:
    """The plug-in that a module is, or belongs to."""
    return next((p for p in plug_ins if f"{module}.".startswith(f"{p}.")), None)
