"""Modules import each other in one direction, and none of them needs the whole package."""

import ast
import graphlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import loratools
from loratools import formats, methods, registry, traps
from loratools.cli import verbs
from loratools.formats._modules import kinds as module_kinds
from loratools.formats._peft import kinds

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


def cycle(imported: dict[str, set[str]]) -> list[str]:
    """The names of modules that import each other in a circle."""
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


PACKAGE_TEXTS = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}


@cache
def package_graph() -> dict[str, set[str]]:
    return graph(PACKAGE_TEXTS)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert len(PACKAGE_TEXTS) > 100
    assert cycle(package_graph()) == []


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
    texts = {"p": "", "p.a": "from p.b import other", "p.b": way}
    assert set(cycle(graph(texts))) == {"p.a", "p.b"}


def test_no_module_needs_the_whole_package() -> None:
    """Its version, for one, is in a module of its own."""
    needing = [name for name, found in package_graph().items() if "loratools" in found]
    assert needing == []


PACKAGES = [formats, kinds, module_kinds, methods, traps, verbs]
PLUG_INS = [f"{p.__name__}.{name}" for p in PACKAGES for name in registry.names(p)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_no_plug_in_is_imported_by_name(package: ModuleType) -> None:
    """Not by another, nor by what they share; so one can be added, or removed, by itself."""
    plug_ins = {f"{package.__name__}.{name}" for name in registry.names(package)}
    assert len(plug_ins) > 1
    crossing = [
        f"{importing} imports {imported}"
        for importing, found in package_graph().items()
        for imported in found
        if (plug_in := owner(imported, plug_ins)) and owner(importing, plug_ins) != plug_in
    ]
    assert crossing == []


def owner(module: str, plug_ins: set[str]) -> str | None:
    """The plug-in that a module is, or belongs to."""
    return next((p for p in plug_ins if f"{module}.".startswith(f"{p}.")), None)


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """The functions, classes and constants of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
            yield from ((name.id, node) for name in names)


def words(tree: ast.AST) -> Counter[str]:
    """How often names are used, in quoted annotations too."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(set(re.findall(r"\w+", node.value)) if "\n" not in node.value else ())
    return found


def test_nothing_is_defined_for_nobody() -> None:
    """Nor for tests alone: what nothing in the package uses is public, or stated by a plug-in."""
    trees = {name: ast.parse(text) for name, text in PACKAGE_TEXTS.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    imported = {
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    whole = {f"{module}.{name}" for module, name in imported} & set(trees)
    whole |= {name for p in PLUG_INS for name in trees if owner(name, {p})}
    used = {module: words(tree) for module, tree in trees.items()}
    unused = [
        f"{module}.{name}"
        for module, tree in trees.items()
        for name, node in definitions(tree)
        if used[module][name] <= words(node)[name]
        and (module, name) not in imported
        and not (module in whole and name in attributes)
        and not (name.startswith("__") or name in loratools.__all__)
        and module != "loratools.testing"
    ]
    assert unused == []
