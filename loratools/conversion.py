"""Values as annotations say: what means the same is converted, and the rest is refused."""

import builtins
import collections.abc
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from loratools.annotated import LISTS, described, is_list, named
from loratools.errors import counted, shorten

#: The largest integer that is looked at, so that messages can have it.
_MOST = 10**4000
#: The most characters of a path on Linux; a longer text is the content of a file, or an accident.
_LONGEST_PATH = 4096
#: Types of which a message shows the value that was given; of others it names the type.
_SHOWN = (str, bytes, int, float, complex, type(None))


class EmptyError(Exception):
    """A path was expected, and an empty text was given."""


class OtherError(Exception):
    """A value does not fit its annotation; the message says what was expected and given."""

    def __init__(
        self,
        expected: object,
        value: object,
        message: str | None = None,
        *,
        given: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(
            message or f"{described(expected)} is expected, not {given or _shown(value)}"
        )
        self.hint = hint


def _shown(value: object) -> str:
    """A value that was given, or else what it is."""
    if isinstance(value, int) and abs(value) > _MOST:  # Python refuses to print the longest
        return "a larger one"
    if isinstance(value, _SHOWN):
        return shorten(repr(value), 60)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if type(value) is tuple:
        return f"a tuple of {counted(len(value), 'item')}"
    return named(type(value).__name__)


def converted(expected: object, value: object) -> object:
    """`value` as the annotation `expected` says.

    Raises:
        OtherError: it is something else.
    """
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(expected, inner, value)
    if origin in LISTS:
        return _as_list(expected, inner[0], value)
    if origin is collections.abc.Callable:
        return _as_function(expected, inner[0], value)
    if origin is tuple and Ellipsis not in inner:
        return _as_tuple(expected, inner, value)
    if origin is tuple:
        return _as_list(expected, inner[0], value)
    if origin is collections.abc.Mapping and isinstance(value, Mapping):
        return {
            converted(inner[0], key): _as_item(inner[1], key, one) for key, one in value.items()
        }
    if origin is typing.Literal:
        return _as_one_of(expected, dict.fromkeys(map(type, inner)), value)
    if expected in (int, float, bool) and getattr(value, "ndim", None) == 0:
        value = _item(expected, value)
    if _is_a(origin or expected, value):
        return _plain(expected, value)
    is_config = origin is collections.abc.Mapping and hasattr(value, "to_dict")
    raise OtherError(expected, value, hint="give its to_dict()" if is_config else None)


def _item(expected: object, value: object) -> object:
    """The number in a tensor of torch or numpy."""
    try:
        return typing.cast(typing.Any, value).item()
    except RuntimeError:  # on torch's device meta, whose tensors have no values
        raise OtherError(expected, value, given="a tensor without a value") from None


def _as_item(expected: object, key: object, value: object) -> object:
    """`value` as annotated; the error names the key of the mapping that it is in."""
    try:
        return converted(expected, value)
    except OtherError as other:
        said = f"{shorten(str(key))}: {other}"
        raise OtherError(expected, value, said, hint=other.hint) from None


def _as_function(expected: object, parameters: object, value: object) -> object:
    """A function that can be called with as many arguments as are annotated."""
    if not callable(value) or isinstance(value, type):  # tqdm, where one of its bars is meant
        raise OtherError(expected, value)
    try:
        inspect.signature(value).bind(*(parameters if isinstance(parameters, list) else ()))
    except ValueError:  # some that are written in C have no signature
        return value
    except TypeError:
        raise OtherError(expected, value, given=_called(value)) from None
    return value


def _called(function: Callable[..., object]) -> str:
    """How a function is called: `update(n=1)`."""
    if isinstance(function, type):
        return _shown(function)
    name = getattr(function, "__name__", type(function).__name__)
    return shorten(f"{name}{inspect.signature(function)}", 60)


def _is_a(expected: object, value: object) -> bool:
    """Whether `value` is of a class, or of one of which only the name is known here."""
    if expected in (object, typing.Any):
        return True
    if expected in (int, float):
        kind = numbers.Integral if expected is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if expected is bool:
        return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
    if expected is Path:
        return isinstance(value, os.PathLike | bytes)
    if expected is None or expected is type(None):
        return value is None
    assert isinstance(expected, type), expected
    if issubclass(expected, _Later):
        return any(kind.__name__ == expected.__name__ for kind in type(value).__mro__)
    return isinstance(value, expected)


def _plain(expected: object, value: object) -> object:
    """A value as Python's own: numpy's numbers and paths of other types are converted."""
    if expected is float and isinstance(value, numbers.Real):
        try:
            float(value)
        except OverflowError:
            said = "a number of at most 1.8e308 is expected, not a larger one"
            raise OtherError(expected, value, said) from None
    if expected is int and isinstance(value, numbers.Integral) and abs(int(value)) > _MOST:
        said = "an integer of at most 4000 digits is expected, not a larger one"
        raise OtherError(expected, value, said)
    if type(value) in (int, float, bool):
        return value
    if expected is int and isinstance(value, numbers.Integral):
        return int(value)
    if expected is float and isinstance(value, numbers.Real):
        return float(value)
    if expected is bool:
        return bool(value)
    if isinstance(value, bytes | os.PathLike) and not isinstance(value, Path):
        return os.fsdecode(value) if expected is Path else value
    return value


def _as_one_of(expected: object, kinds: Iterable[object], value: object) -> object:
    """`value` as the first annotation that it fits; the error for a list is that of its items."""
    kinds = tuple(kinds)
    if Path in kinds and isinstance(value, str | bytes) and not value:
        raise EmptyError
    if Path in kinds and isinstance(value, str | bytes) and len(value) > _LONGEST_PATH:
        content = f"a text of {counted(len(value), 'character')}, such as a file has"
        raise OtherError(expected, value, given=content)
    for kind in kinds:
        try:
            return converted(kind, value)
        except OtherError:
            continue
    given = [kind for kind in kinds if kind is not type(None)]
    if len(given) == 1:
        return converted(given[0], value)
    # What is wrong with an item says more than that the whole is not what is expected.
    for kind in kinds:
        holder = typing.get_origin(kind)
        if holder is collections.abc.Mapping and isinstance(value, Mapping):
            converted(kind, value)
        if holder in LISTS and isinstance(value, list | tuple | set | frozenset):
            converted(kind, value)
        if holder is tuple and isinstance(value, tuple) and not any(map(is_list, kinds)):
            converted(kind, value)
    is_function = any(typing.get_origin(kind) is collections.abc.Callable for kind in kinds)
    shown = _called(value) if is_function and callable(value) else None
    raise OtherError(expected, value, given=shown, hint=_hint(filter(is_list, kinds), value))


def _as_list(expected: object, item: object, value: object) -> object:
    """A tuple of items; one item alone is a list of it."""
    try:
        return (converted(item, value),)
    except OtherError:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise OtherError(expected, value, hint=_hint([expected], value)) from None
        # The order of texts in a list, which are globs, does not matter.
        is_ordered = typing.get_origin(expected) is not collections.abc.Iterable
        if isinstance(value, set | frozenset) and is_ordered and item is not str:
            raise OtherError(expected, value, given="a set, which has no order") from None
    return tuple(converted(item, one) for one in value)


def _hint(lists: Iterable[object], value: object) -> str | None:
    """What to do about a mapping where a list of pairs is expected."""
    items = [item for kind in lists for item in typing.get_args(kind)]
    kinds = [*items, *(one for item in items for one in typing.get_args(item))]
    has_pairs = any(typing.get_origin(kind) is tuple and not is_list(kind) for kind in kinds)
    return "give its items()" if has_pairs and isinstance(value, Mapping) else None


def _as_tuple(expected: object, items: tuple[object, ...], value: object) -> object:
    if not isinstance(value, tuple | list) or len(value) != len(items):
        raise OtherError(expected, value)
    try:
        return tuple(converted(item, one) for item, one in zip(items, value, strict=True))
    except OtherError as other:
        said = f"in ({shorten(', '.join(map(_shown, value)), 60)}): {other}"
        raise OtherError(expected, value, said, hint=other.hint) from None


class _Dotted(type):
    """The type of classes that have any other class as an attribute: `torch` has `device`.

    Their parameters are not checked: `np.ndarray[Any, Any]` is `np.ndarray`.
    """

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _later(name)

    def __getitem__(cls, parameters: object) -> type:
        return cls  # `ndarray[Any, Any]`


class _Later(metaclass=_Dotted):
    """A class that only type checkers import, and that is recognised by its name here."""


@cache
def _later(name: str) -> type:
    return _Dotted(name, (_Later,), {})


class Names(dict[str, object]):
    """The names of a module, with a class of the same name for those that it does not have."""

    def __missing__(self, name: str) -> object:
        return getattr(builtins, name, None) or _later(name)


def resolved(annotation: object, names: Names) -> object:
    """An annotation without texts in it."""
    if isinstance(annotation, str):
        return eval(annotation, {}, names)
    if isinstance(annotation, typing.ForwardRef):
        return resolved(annotation.__forward_arg__, names)
    return annotation
