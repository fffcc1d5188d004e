"""What an annotation expects of an argument, in the words of a message."""

import collections.abc
import re
import types
import typing
from pathlib import Path

from loratools.errors import counted, either

#: Annotations of what is given as one item or as several.
LISTS = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, list)
#: What a value of a type is called; by its name, if it is not imported here.
_WORDS: dict[object, str] = {
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
    collections.abc.Mapping: "a mapping",
    collections.abc.Callable: "a function",
}
#: The same for classes that are not imported here.
_BY_NAME = {"Tensor": "a tensor", "ndarray": "an array", "device": "a torch.device"}


def described(expected: object) -> str:
    """What an annotation expects, in words."""
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        # Beside a path, a text is one too; and None needs no words.
        kinds = [k for k in inner if k is not type(None) and not (k is str and Path in inner)]
        single = [word for kind in kinds if not is_list(kind) for word in _alternatives(kind)]
        lists = [described(kind) for kind in kinds if is_list(kind)]
        them = _many(either(single)) if single else ""
        return either([*single, *("a list of them" if many == them else many for many in lists)])
    if is_list(expected):
        return _many(described(inner[0]))
    if origin is tuple:
        return f"a pair ({', '.join(map(described, inner))})"
    if expected is bool or origin is typing.Literal:
        return either(_alternatives(expected))
    if origin is collections.abc.Callable and isinstance(inner[0], list):
        return f"a function of {counted(len(inner[0]), 'argument')}"
    kind = origin or expected
    name = str(getattr(kind, "__name__", kind))
    return _WORDS.get(kind) or named(name)


def _alternatives(kind: object) -> list[str]:
    """The values of an annotation that has few; else the annotation in words."""
    if kind is bool:
        return ["True", "False"]
    if typing.get_origin(kind) is typing.Literal:
        return [repr(value) for value in typing.get_args(kind)]
    return [described(kind)]


def is_list(annotation: object) -> bool:
    """Whether an annotation is of several items: a `Sequence[str]`, a `tuple[str, ...]`."""
    origin = typing.get_origin(annotation)
    return origin in LISTS or (origin is tuple and Ellipsis in typing.get_args(annotation))


def named(name: str) -> str:
    """A type by its name, with an article: `an Adapter`."""
    return _BY_NAME.get(name) or f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _many(item: str) -> str:
    """A list of what is described: `a list of numbers`, `a list, each item a path or a number`."""
    word = re.fullmatch(r"an? (\w+)( \(.*\))?", item)
    return f"a list of {word[1]}s{word[2] or ''}" if word else f"a list, each item {item}"
