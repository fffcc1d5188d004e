"""The border of the public functions: arguments are checked against annotations, and converted.

What a signature promises is checked once, where a user's values come in, so nothing further inside
has to ask. A value that means the same is converted to what is annotated: a number of numpy to
Python's, one item to a list of it, a path in bytes or of `os.scandir` to a text.
"""

import builtins
import collections.abc
import inspect
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from loratools.annotated import LISTS, described, is_list, named
from loratools.errors import (
    EMPTY_PATH,
    ArgumentError,
    LoratoolsError,
    OptionError,
    counted,
    named_file,
    shorten,
)
from loratools.nearest import meant_argument

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

#: The least value of numbers that mean the same in every function.
_LEAST = {"jobs": 1}
#: The largest integer that is looked at, so that messages can have it.
_MOST = 10**100
#: The most characters of a path on Linux; a longer text is the content of a file, or an accident.
_LONGEST_PATH = 4096
#: Types of which a message shows the value that was given; of others it names the type.
_SHOWN = (str, bytes, int, float, complex, type(None))


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check and convert the arguments of a public function, and give its errors their file.

    Raises:
        ArgumentError: an argument is missing, unknown, or of another type than the annotated one.
    """

    @wraps(function)
    def bordered(*args: P.args, **kwargs: P.kwargs) -> R:
        arguments = _converted(function, function.__qualname__, args, kwargs)
        try:
            return function(*arguments.args, **arguments.kwargs)
        except LoratoolsError as error:
            error.file = error.file or named_file(error, _names(arguments.arguments.values()))
            raise

    return bordered


def checked_fields(kind: type[C]) -> type[C]:
    """Check and convert the fields with which objects of a public dataclass are made.

    Raises:
        ArgumentError: as for `checked`.
    """
    make: Callable[..., None] = kind.__init__

    @wraps(make)
    def bordered(*args: object, **kwargs: object) -> None:
        arguments = _converted(make, kind.__name__, args, kwargs)
        make(*arguments.args, **arguments.kwargs)

    kind.__init__ = bordered  # type: ignore[method-assign]
    return kind


def _converted(
    function: Callable[..., object],
    name: str,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> inspect.BoundArguments:
    """The arguments of a call, as they are annotated."""
    signature, annotations = _signature(function)
    try:
        arguments = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise _unbound(name, signature, annotations, kwargs, str(error)) from None
    for parameter, value in arguments.arguments.items():
        if parameter in annotations:
            try:
                given = _dtype_name(value) if parameter == "dtype" else value
                arguments.arguments[parameter] = _as(annotations[parameter], given)
            except _OtherError as other:
                hint = other.hint or _order(name, signature, parameter, len(args))
                raise ArgumentError(f"{name}: {parameter}: {other}", hint=hint) from None
            except _EmptyError:
                raise OptionError(f"{name}: {parameter}: {EMPTY_PATH}") from None
            _check_least(name, parameter, arguments.arguments[parameter])
    return arguments


def _order(name: str, signature: inspect.Signature, parameter: str, given: int) -> str | None:
    """The order of arguments, where a wrong one is among the first, `given` without names."""
    parameters = signature.parameters.values()
    first = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    if parameter not in first[:given] or len(first) == 1 or first[0] == "self":
        return None
    return f"the order is {name}({', '.join(first)})"


def _check_least(name: str, parameter: str, value: object) -> None:
    """Refuse a number that is too small in every function."""
    least = _LEAST.get(parameter)
    if least is not None and isinstance(value, int) and value < least:
        raise OptionError(
            f"{name}: {parameter}: {least} or more is expected, not {value}",
            hint="leave it out for the default",
        )


def _unbound(
    name: str,
    signature: inspect.Signature,
    annotations: Mapping[str, object],
    kwargs: Mapping[str, object],
    reason: str,
) -> ArgumentError:
    """The error for arguments that do not fit a signature; an unknown name comes first."""
    hint = _by_name(signature, annotations) if "too many positional" in reason else None
    unknown = next((key for key in kwargs if key not in signature.parameters), None)
    if unknown is not None:
        near = meant_argument(unknown, signature.parameters)
        hint = f"did you mean {near}?" if near else f"help(loratools.{name}) lists all"
        if unknown == "dry_run" and "output" in signature.parameters:
            hint = "without output=, nothing is written"
        reason = f"got an unexpected keyword argument {unknown!r}"
    return ArgumentError(f"{name}: {reason}", hint=hint)


def _by_name(signature: inspect.Signature, annotations: Mapping[str, object]) -> str:
    """What to do about a call with too many arguments without names."""
    parameters = [one for one in signature.parameters.values() if one.name != "self"]
    named = [f"{one.name}=" for one in parameters if one.kind is one.KEYWORD_ONLY]
    first = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    last = annotations.get(first[-1]) if first else None
    is_several = any(typing.get_origin(kind) in LISTS for kind in typing.get_args(last))
    several = ", several as a list" if is_several else ""
    by_name = f"by name: {', '.join(named[:3])}{', …' if named[3:] else ''}"
    if not first:
        return f"give each {by_name}"
    return f"give {' and '.join(first)}{several}{f', and others {by_name}' if named else ''}"


def _dtype_name(value: object) -> object:
    """The name of a dtype of torch or numpy; other values as they are."""
    is_dtype = any(kind.__name__ == "dtype" for kind in type(value).__mro__)
    return str(value).removeprefix("torch.") if is_dtype else value


@cache
def _signature(function: Callable[..., object]) -> tuple[inspect.Signature, Mapping[str, object]]:
    """The signature of a function, and the annotations of its parameters as objects."""
    names = _Names(sys.modules[function.__module__].__dict__)
    annotations = {
        name: _resolved(annotation, names)
        for name, annotation in function.__annotations__.items()
        if name != "return"
    }
    return inspect.signature(function), annotations


class _EmptyError(Exception):
    """An empty text is where a path belongs."""


class _OtherError(Exception):
    """A value is not what is annotated; the message says what is expected, and what was given."""

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


def _as(expected: object, value: object) -> object:
    """`value` as the annotation `expected` says.

    Raises:
        _OtherError: it is something else.
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
        return {_as(inner[0], key): _as_item(inner[1], key, one) for key, one in value.items()}
    if origin is typing.Literal:
        return _as_one_of(expected, dict.fromkeys(map(type, inner)), value)
    if expected in (int, float, bool) and getattr(value, "ndim", None) == 0:
        value = _item(expected, value)
    if _is_a(origin or expected, value):
        return _plain(expected, value)
    is_config = origin is collections.abc.Mapping and hasattr(value, "to_dict")
    raise _OtherError(expected, value, hint="give its to_dict()" if is_config else None)


def _item(expected: object, value: object) -> object:
    """The number in a tensor of torch or numpy."""
    try:
        return typing.cast(typing.Any, value).item()
    except RuntimeError:  # on torch's device meta, whose tensors have no values
        raise _OtherError(expected, value, given="a tensor without a value") from None


def _as_item(expected: object, key: object, value: object) -> object:
    """`value` as annotated; the error names the key of the mapping that it is in."""
    try:
        return _as(expected, value)
    except _OtherError as other:
        said = f"{shorten(str(key))}: {other}"
        raise _OtherError(expected, value, said, hint=other.hint) from None


def _as_function(expected: object, parameters: object, value: object) -> object:
    """A function that can be called with as many arguments as are annotated."""
    if not callable(value) or isinstance(value, type):  # tqdm, where one of its bars is meant
        raise _OtherError(expected, value)
    try:
        inspect.signature(value).bind(*(parameters if isinstance(parameters, list) else ()))
    except ValueError:  # some that are written in C have no signature
        return value
    except TypeError:
        raise _OtherError(expected, value, given=_called(value)) from None
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
            raise _OtherError(expected, value, said) from None
    if expected is int and isinstance(value, numbers.Integral) and abs(int(value)) > _MOST:
        said = "an integer of at most 100 digits is expected, not a larger one"
        raise _OtherError(expected, value, said)
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
        raise _EmptyError
    if Path in kinds and isinstance(value, str | bytes) and len(value) > _LONGEST_PATH:
        content = f"a text of {len(value)} characters, such as a file has"
        raise _OtherError(expected, value, given=content)
    for kind in kinds:
        try:
            return _as(kind, value)
        except _OtherError:
            continue
    given = [kind for kind in kinds if kind is not type(None)]
    if len(given) == 1:
        return _as(given[0], value)
    # What is wrong with an item says more than that the whole is not what is expected.
    for kind in kinds:
        holder = typing.get_origin(kind)
        if holder is collections.abc.Mapping and isinstance(value, Mapping):
            _as(kind, value)
        if holder in LISTS and isinstance(value, list | tuple | set | frozenset):
            _as(kind, value)
        if holder is tuple and isinstance(value, tuple) and not any(map(is_list, kinds)):
            _as(kind, value)
    is_function = any(typing.get_origin(kind) is collections.abc.Callable for kind in kinds)
    shown = _called(value) if is_function and callable(value) else None
    raise _OtherError(expected, value, given=shown, hint=_hint(filter(is_list, kinds), value))


def _as_list(expected: object, item: object, value: object) -> object:
    """A tuple of items; one item alone is a list of it."""
    try:
        return (_as(item, value),)
    except _OtherError:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise _OtherError(expected, value, hint=_hint([expected], value)) from None
        # The order of texts in a list, which are globs, does not matter.
        is_ordered = typing.get_origin(expected) is not collections.abc.Iterable
        if isinstance(value, set | frozenset) and is_ordered and item is not str:
            raise _OtherError(expected, value, given="a set, which has no order") from None
    return tuple(_as(item, one) for one in value)


def _hint(lists: Iterable[object], value: object) -> str | None:
    """What to do about a mapping where a list of pairs is expected."""
    items = [item for kind in lists for item in typing.get_args(kind)]
    kinds = [*items, *(one for item in items for one in typing.get_args(item))]
    has_pairs = any(typing.get_origin(kind) is tuple and not is_list(kind) for kind in kinds)
    return "give its items()" if has_pairs and isinstance(value, Mapping) else None


def _as_tuple(expected: object, items: tuple[object, ...], value: object) -> object:
    if not isinstance(value, tuple | list) or len(value) != len(items):
        raise _OtherError(expected, value)
    try:
        return tuple(_as(item, one) for item, one in zip(items, value, strict=True))
    except _OtherError as other:
        said = f"in ({shorten(', '.join(map(_shown, value)), 60)}): {other}"
        raise _OtherError(expected, value, said, hint=other.hint) from None


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
    """A class that only type checkers import: values are of it if theirs has the same name."""


@cache
def _later(name: str) -> type:
    return _Dotted(name, (_Later,), {})


class _Names(dict[str, object]):
    """The names of a module, with a class of the same name for those that it does not have."""

    def __missing__(self, name: str) -> object:
        return getattr(builtins, name, None) or _later(name)


def _resolved(annotation: object, names: _Names) -> object:
    """An annotation without texts in it."""
    if isinstance(annotation, str):
        return eval(annotation, {}, names)
    if isinstance(annotation, typing.ForwardRef):
        return _resolved(annotation.__forward_arg__, names)
    return annotation


def _names(values: Iterable[object]) -> Iterator[str]:
    """The names of files among arguments, in lists and options too, and of opened adapters."""
    for value in values:
        if isinstance(value, str | os.PathLike):
            yield str(value)
        elif isinstance(value, list | tuple):
            yield from _names(value)
        elif isinstance(where := getattr(value, "where", None), str):
            yield where
