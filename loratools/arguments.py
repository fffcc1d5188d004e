"""The border of the public functions: arguments are checked against annotations, and converted.

What a signature promises is checked once, where a user's values come in, so nothing further inside
has to ask. A value that means the same is converted to what is annotated: a number of numpy to
Python's, one item to a list of it, a path in bytes or of `os.scandir` to a text.
"""

import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, wraps
from typing import ParamSpec, TypeGuard, TypeVar

from loratools.annotated import LISTS
from loratools.conversion import EmptyError, Names, OtherError, converted, resolved
from loratools.errors import (
    EMPTY_PATH,
    ArgumentError,
    LoratoolsError,
    OptionError,
    named_file,
)
from loratools.nearest import meant
from loratools.other_words import ARGUMENTS
from loratools.showing.shown import Brief

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

#: The least value of numbers that mean the same in every function.
_LEAST = {"jobs": 1}
#: What to do in place of an argument that functions of one sort lack, which have another one.
_INSTEAD = {
    ("dry_run", "output"): "without output=, nothing is written",
    ("output", "model"): "the files of the model itself are changed; merge writes others",
    ("remove", "model"): "an empty list of adapters takes all of them out",
    ("unload", "model"): "an empty list of adapters takes all of them out",
    ("check", "spectrum"): "is_sound of what it returns is the result of the check",
    ("rank", "tensors"): "the shapes of the tensors have it",
}
#: Of a function with more arguments than these, not all are named in a message.
_FEW = 6


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check and convert the arguments of a public function, and give its errors their file.

    Raises:
        ArgumentError: an argument is missing, unknown, or of another type than the annotated one.
    """

    @wraps(function)
    def bordered(*args: P.args, **kwargs: P.kwargs) -> R:
        arguments = _bound(function, function.__qualname__, args, kwargs)
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
        arguments = _bound(make, kind.__name__, args, kwargs)
        make(*arguments.args, **arguments.kwargs)

    kind.__init__ = bordered  # type: ignore[method-assign]
    return kind


def _bound(
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
                arguments.arguments[parameter] = converted(annotations[parameter], given)
            except OtherError as other:
                hint = other.hint or _order(name, signature, parameter, len(args))
                raise ArgumentError(f"{name}: {parameter}: {other}", hint=hint) from None
            except EmptyError:
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
        hint = _in_place_of(unknown, name, signature, annotations)
        reason = f"got an unexpected keyword argument {unknown!r}"
    return ArgumentError(f"{name}: {reason}", hint=hint)


def _in_place_of(
    unknown: str, name: str, signature: inspect.Signature, annotations: Mapping[str, object]
) -> str:
    """What to write instead of an argument that the function does not have."""
    known = [parameter for parameter in signature.parameters if parameter != "self"]
    for (word, other), advice in _INSTEAD.items():
        if unknown == word and other in known:
            return advice
    for parameter, annotation in annotations.items():
        for kind in typing.get_args(annotation):
            if _is_options(kind) and unknown in inspect.signature(kind).parameters:
                return f"give it in {parameter}=loratools.{kind.__name__}({unknown}=…)"
    if (near := meant(unknown, known, ARGUMENTS)) is not None:
        return f"did you mean {near}?"
    if len(known) <= _FEW:
        return f"it takes {', '.join(f'{one}=' for one in known)}"
    return f"help(loratools.{name}) lists all"


def _is_options(kind: object) -> TypeGuard[type[Brief]]:
    return isinstance(kind, type) and issubclass(kind, Brief)


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
    names = Names(sys.modules[function.__module__].__dict__)
    annotations = {
        name: resolved(annotation, names)
        for name, annotation in function.__annotations__.items()
        if name != "return"
    }
    return inspect.signature(function), annotations


def _names(values: Iterable[object]) -> Iterator[str]:
    """The names of files among arguments, in lists and options too, and of opened adapters."""
    for value in values:
        if isinstance(value, str | os.PathLike):
            yield str(value)
        elif isinstance(value, list | tuple):
            yield from _names(value)
        elif isinstance(where := getattr(value, "where", None), str):
            yield where
