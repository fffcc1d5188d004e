"""Checks of the types of fields in the config of an adapter.

All of them raise a `FormatError` that names the field, and its value where there is one to show.
They are called where the errors get the name of the config, as `ConfigName.errors` gives it.
"""

import math
from collections.abc import Mapping
from typing import Any

from loratools.errors import FormatError, errors_of
from loratools.io.json import in_json


def check_names(fields: Mapping[str, Any], name: str) -> None:
    """Check that a field is a name, a list of names, or absent."""
    value = fields.get(name)
    items = value if isinstance(value, list) else ["" if value is None else value]
    if not all(isinstance(item, str) for item in items):
        raise FormatError(f"{name} must be a name or a list of names, is {in_json(value)}")


def check_layers(fields: Mapping[str, Any]) -> None:
    """Check that `layers_to_transform` is an integer, a list of integers, or absent."""
    value = fields.get("layers_to_transform")
    items = value if isinstance(value, list) else [0 if value is None else value]
    if not all(type(item) is int for item in items):
        raise FormatError(
            f"layers_to_transform must be a number or a list of numbers, is {in_json(value)}"
        )


def check_type(fields: Mapping[str, Any], name: str, kind: type) -> None:
    """Check that a field is of type `kind`, which is list or dict, or is absent or empty."""
    value = fields.get(name)
    if value and not isinstance(value, kind):
        what = "a list" if kind is list else "an object"
        raise FormatError(f"{name} must be {what}, is {in_json(value)}")


def integer(fields: Mapping[str, Any], name: str) -> int:
    """The value of a field that must be a positive integer."""
    value = number(fields, name)
    if value < 1 or not float(value).is_integer():
        raise FormatError(f"{name} must be a positive integer, is {in_json(value)}")
    return int(value)


def number(fields: Mapping[str, Any], name: str) -> float:
    """The value of a field that must be a finite number."""
    if name not in fields:
        raise FormatError(f"{name} is missing, which must be a finite number")
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise FormatError(f"{name} must be a finite number, is {in_json(value)}")
    return value


def numbers(fields: Mapping[str, Any], name: str, kind: type) -> Mapping[str, Any]:
    """The value of a field that maps patterns to numbers; empty where it is absent.

    If `kind` is int, the numbers must be positive integers.
    """
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise FormatError(f"{name} must map names to numbers")
    with errors_of(name):
        return {key: (integer if kind is int else number)(value, key) for key in value}


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's integers have no limit
        return False
