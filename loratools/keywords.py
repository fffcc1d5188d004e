"""Keyword arguments that stand for fields of an options object, so that few need the object."""

from dataclasses import MISSING, fields, replace
from typing import TYPE_CHECKING, TypeVar

from loratools.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Options = TypeVar("_Options", bound="DataclassInstance")


def with_keywords(options: _Options, **given: object) -> _Options:
    """The options with the fields that are given by keyword; None stands for one that is not.

    Raises:
        OptionError: a field is given by keyword, and the object has another value than the default;
            or it is the empty list of what to take, which would be taken for none at all.
    """
    if given.get("only") == ():
        raise OptionError("only is an empty list", hint="leave it out to take all")
    chosen = {name: value for name, value in given.items() if value is not None}
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(options)
    }
    for name, value in chosen.items():
        own = getattr(options, name)
        if own not in (value, defaults[name]):
            raise OptionError(
                f"{name} is given as {value!r:.60}, and in {type(options).__name__} as {own!r:.60}",
                hint="give it once",
            )
    return replace(options, **chosen)
