"""Finds the modules that the fields of a PEFT config mean: all patterns and all modules at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loratools.errors import errors_of
from loratools.formats._peft.patterns import Pattern, matched, named

#: The fields that are names or patterns of modules, or lists of them.
NAME_FIELDS = ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save")
#: The fields that give modules numbers of their own, by patterns.
NUMBER_FIELDS = ("rank_pattern", "alpha_pattern")

#: The patterns that match a module, by field and by module. For `layers_pattern`, the number of the
#: module's layer instead.
Matches = Mapping[str, Mapping[str, Sequence[str]]]


def names_in(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The names in a field, which is a name or a list of names; empty where it is absent."""
    value = fields.get(name)
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def find_matches(fields: Mapping[str, Any], modules: Sequence[str]) -> Matches:
    """The patterns of each field that match each module, in file order.

    Raises:
        FormatError: a pattern is not a regular expression, or cannot be matched within the limits.
    """
    found: dict[str, dict[str, list[str]]] = {f: {} for f in (*NUMBER_FIELDS, *NAME_FIELDS)}
    for field in ("target_modules", "exclude_modules"):
        if isinstance(fields.get(field), list):
            with errors_of(field):
                found[field] = named(names_in(fields, field), modules)
    for pattern, hits in matched([*_patterns(fields)], modules).items():
        of_field = found[pattern.field]
        for module, number in hits.items():
            what = pattern.text if number is None else number
            of_field.setdefault(module, []).append(what)
    return found


def is_all_linear(targets: object) -> bool:
    """Whether `target_modules` is PEFT's keyword for all linear layers, and not a pattern."""
    return isinstance(targets, str) and targets.lower() == "all-linear"


def _patterns(fields: Mapping[str, Any]) -> Iterator[Pattern]:
    """The regular expressions among the fields."""
    for field in NUMBER_FIELDS:
        for key in fields.get(field) or ():
            yield Pattern(field, key, "end")
    for field in ("target_modules", "exclude_modules"):
        text = fields.get(field)
        is_word = field == "target_modules" and is_all_linear(text)
        if isinstance(text, str) and text and not is_word:
            yield Pattern(field, text, "whole")
    for name in names_in(fields, "layers_pattern"):
        yield Pattern("layers_pattern", name, "layer")
    for name in names_in(fields, "modules_to_save"):
        yield Pattern("modules_to_save", name, "inside")
