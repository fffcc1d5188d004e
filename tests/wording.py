"""What no message may have in it, on whichever way it reaches its reader."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import loratools
from loratools import typed

_PACKAGE = Path(__file__).parents[1] / "loratools"
#: Words that follow a number without being counted by it.
_NOT_COUNTED = frozenset({"is", "as", "has", "was", "does", "its", "this", "or", "less", "across"})
_IRREGULAR = "matrices|indices|entries"
_ADJECTIVES = "base|adapter|block|weight|whole|other|new"
#: What may precede a number that counts; «line 2 column 38» counts nothing.
_NUMBER = r"(?<![\w.,:=×/-])(?<!line )"


def count_faults(text: str) -> list[str]:
    """The parts of a text in which a number and its noun do not fit: `1 tensors`, `2 matrix`."""
    singular = "|".join(_nouns())
    text = re.sub(r"\S*[/\\]\S*", "PATH", text)  # a path may have anything in it
    ones = re.findall(rf"{_NUMBER}1 (?:(?:{_ADJECTIVES}) )?([a-z]+s|{_IRREGULAR})\b", text)
    several = rf"{_NUMBER}(?:[02-9]|[1-9]\d+) (?:{singular})(?![\w-]| (?:[a-z]+s|{_IRREGULAR})\b)"
    return [
        *(f"1 {noun}" for noun in ones if noun not in _NOT_COUNTED and not noun.endswith("ss")),
        *re.findall(several, text),
    ]


@cache
def _nouns() -> tuple[str, ...]:
    """One of everything that the package counts."""
    nodes = (node for tree in package_trees() for node in ast.walk(tree))
    calls = (node for node in nodes if isinstance(node, ast.Call))
    counts = (call for call in calls if getattr(call.func, "id", "") == "counted")
    words = (argument for call in counts for argument in call.args[1:2])
    found = {str(word.value) for word in words if isinstance(word, ast.Constant)}
    return tuple(sorted(noun for noun in found if " " not in noun))


#: What only the code knows: reprs of libraries, classes, lists of floats, folders in the making.
_INTERNAL = re.compile(
    r"\btorch\.\w+|\bnp\.\w+|PosixPath|dict_(?:keys|values|items)|<(?:class|function) "
    r"| object at 0x|loratools-partial|\[(?:nan|inf|-?\d+\.\d+)[,\]]|frozenset|mappingproxy"
)


def internal_names(text: str) -> list[str]:
    """The parts of a message on the command line that only readers of the code understand."""
    names = "|".join(sorted(_in_python()))
    found = re.findall(rf"(?<![\w.'\"/\[{{-])(?:{names})(?![\w'\"/=.:])", text)
    return [*_INTERNAL.findall(text), *found]


@cache
def _in_python() -> frozenset[str]:
    """The names of options and of their classes in Python, where the command line has others."""
    public = {name: getattr(loratools, name) for name in loratools.__all__}
    names = {
        name
        for one in public.values()
        if inspect.isfunction(one)
        for name in inspect.signature(one).parameters
    }
    for one in public.values():
        if is_dataclass(one) and not hasattr(one, "to_json"):
            names |= {field.name for field in fields(one)}
    classes = {name for name in public if name.endswith(("Options", "Rule", "Run"))}
    return frozenset(classes | {name for name in names if "_" in name or name == "lam"})


#: Options and commands of a shell, beside other marks of the names of options than a path has.
_VERBS = "|".join(
    path.stem.replace("_", "-") for path in (_PACKAGE / "cli/verbs").glob("[a-z]*.py")
)
_SHELL = re.compile(rf"(?:(?<=[ `(])|^)--[a-z][a-z-]+|(?:[`;,] ?|^)loratools (?:{_VERBS})(?![\w-])")


def shell_words(text: str) -> list[str]:
    """The options of the command line that a message names where none is running: in Python."""
    return [] if typed.as_typed("base") == "--base" else _SHELL.findall(text)


def lengths_beside_a_noun() -> Iterator[str]:
    """The places in the package where a length is written before a noun, not by `counted`."""
    for tree in package_trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, after in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    number = ast.unparse(value.value)
                    noun = re.match(
                        r" (?!of|more|other\b|in|given|and|are given|cannot)[a-z]+",
                        str(after.value),
                    )
                    if noun and re.match(r"len\(|sum\(", number):
                        yield f"{number}{noun[0]}"


@cache
def package_trees() -> tuple[ast.AST, ...]:
    return tuple(ast.parse(file.read_text()) for file in sorted(_PACKAGE.rglob("*.py")))
