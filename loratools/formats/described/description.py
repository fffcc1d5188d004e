"""What a user says of home-made keys: a pattern for each part of an update.

A pattern is a key with `{target}` once, in the place of the module's name: `{target}.B`. It is for
whole keys. A part whose name ends in `.T` is stored transposed.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from loratools.errors import FormatError, OptionError, counted, errors_of, listing, shorten
from loratools.formats._modules.alphas import ALPHA
from loratools.io.failures import path_errors
from loratools.io.file import InputFile
from loratools.io.missing import refuse_missing

#: The parts of an update as users call them, with the names that they have in the code.
PARTS = {
    "up": "lora_up.weight",
    "down": "lora_down.weight",
    "mid": "lora_mid.weight",
    "magnitude": "dora_scale",
    "alpha": ALPHA,
}
#: The module that a home-made layer is wrapped around, in a file that also holds the model.
BASE = "base"
#: The factor of all updates, which may be said beside the patterns.
SCALE = "scale"
_TARGET = "{target}"
_TRANSPOSED = ".T"
_MAY_BE_TRANSPOSED = ("up", "down")
_MAX_BYTES = 1_000_000


@final
@dataclass(frozen=True)
class Pattern:
    """The spelling of keys: what stands before and after the name of a module."""

    before: str
    after: str

    def __str__(self) -> str:
        """The pattern as the user writes it."""
        return f"{self.before}{_TARGET}{self.after}"

    def target(self, key: str) -> str | None:
        """The name of the module in a key; None for a key that is not spelled so."""
        begin, end = len(self.before), len(key) - len(self.after)
        fits = begin < end and key.startswith(self.before) and key.endswith(self.after)
        return key[begin:end] if fits else None

    def key(self, target: str) -> str:
        """The key of a module."""
        return f"{self.before}{target}{self.after}"


@final
@dataclass(frozen=True)
class Description:
    """The patterns of parts, by the users' names for them, and which parts are stored transposed.

    `base` is the pattern of the modules in the layers, where the file holds the model too, and
    `scale` the factor of all updates, where the user says it beside the patterns.
    """

    patterns: Mapping[str, Pattern]
    transposed: frozenset[str]
    base: Pattern | None
    scale: str | None = None

    def __str__(self) -> str:
        """The description, without a scale, as a text that is parsed to the same description."""
        named = {
            part + _TRANSPOSED * (part in self.transposed): pattern
            for part, pattern in self.patterns.items()
        }
        lines = named | ({} if self.base is None else {BASE: self.base})
        return "\n".join(f"{part}={pattern}" for part, pattern in lines.items())

    @property
    def listed(self) -> str:
        """The description on one line, for messages."""
        return str(self).replace("\n", ", ")

    def split(self, key: str) -> tuple[str, str] | None:
        """The target and the part in a key; None for a key that no pattern fits.

        Raises:
            FormatError: two patterns fit.
        """
        found = [
            (target, part)
            for part, pattern in self.patterns.items()
            if (target := pattern.target(key)) is not None
        ]
        if len(found) > 1:
            fitting = listing(f"{part}={self.patterns[part]}" for _, part in found)
            raise FormatError(
                f"{shorten(key)}: fits {fitting}", tensor=key, hint="make one of them longer"
            )
        return found[0] if found else None

    def stored(self, transposed: frozenset[str]) -> "Description":
        """The same description, with these parts stored transposed."""
        return replace(self, transposed=transposed)


def parse(text: str) -> Description:
    """The description in a text: `PART=PATTERN`, separated by spaces, or the path of a YAML file.

    >>> parse("up={target}.B down.T={target}.A").split("fc1.A")
    ('fc1', 'down')

    Raises:
        OptionError: a part is unknown or has two patterns, a pattern has no `{target}` or two, two
            parts have the same pattern, a factor has none, or there is no such file.
    """
    if "=" not in text and text.strip().endswith((".yaml", ".yml", ".json")):
        file = text.strip()
        with errors_of(file, file):
            return _description(_read_yaml(Path(file)))
    return parsed_pairs(text)


def parsed_pairs(text: str) -> Description:
    """The description in a text of pairs alone; errors as for `parse`."""
    # A key may contain spaces; a space before `NAME=` separates two patterns.
    with errors_of("keys"):
        return _description(map(_pair, re.split(r"\s+(?=[\w.]+=)|\n", text.strip())))


def _pair(text: str) -> tuple[str, str]:
    part, equals, pattern = text.partition("=")
    if not equals:
        raise OptionError(f"{text!r:.80} is neither PART=PATTERN nor a .yaml file")
    return part.strip(), pattern.strip()


def _read_yaml(path: Path) -> Iterator[tuple[str, str]]:
    import yaml

    try:
        with path_errors(path, OptionError):
            refuse_missing(path)
            file = InputFile(path)
    except FormatError as error:
        raise OptionError(error.complaint, file=path, hint=error.hint) from error
    if file.size > _MAX_BYTES:
        raise OptionError(f"{file.size} bytes are no description of keys")
    try:
        found = yaml.safe_load(file.read(0, file.size).decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise OptionError(
            f"not YAML: {reason}", hint='a pattern is quoted: up: "{target}.B"'
        ) from error
    if not isinstance(found, dict):
        raise OptionError('not a list of parts with patterns, as up: "{target}.B"')
    for part, pattern in found.items():
        is_number = part == SCALE and isinstance(pattern, int | float)
        if not (is_number or isinstance(pattern, str)):
            raise OptionError(
                f"{part!r:.80} is a {type(pattern).__name__} and no pattern",
                hint='a pattern is quoted: up: "{target}.B"',
            )
        yield str(part), str(pattern)


def _description(pairs: Iterable[tuple[str, str]]) -> Description:
    patterns: dict[str, Pattern] = {}
    transposed = set()
    scale = None
    for name, pattern in pairs:
        if name == SCALE:
            scale = _number(pattern)
            continue
        part = name.removesuffix(_TRANSPOSED)
        if part not in (*PARTS, BASE) or (part != name and part not in _MAY_BE_TRANSPOSED):
            raise OptionError(
                f"{name!r:.80} is no part of an update",
                hint=f"there are {', '.join(PARTS)} and "
                f"{BASE}, and up.T and down.T for factors that are stored transposed",
            )
        if part in patterns:
            raise OptionError(f"{part} has two patterns, {patterns[part]} and {pattern}")
        before, *after = pattern.split(_TARGET)
        if len(after) != 1:
            raise OptionError(
                f"{name}={pattern} has {{target}} {counted(len(after), 'time')}",
                hint=f"once it stands for the name of the module, as in {name}={{target}}.{name}",
            )
        patterns[part] = Pattern(before, after[0])
        if part != name:
            transposed.add(part)
    base = patterns.pop(BASE, None)
    _check_parts(patterns)
    return Description(patterns, frozenset(transposed), base, scale)


def _number(text: str) -> str:
    try:
        is_number = math.isfinite(float(text))
    except ValueError:
        is_number = False
    if not is_number:
        raise OptionError(f"{SCALE} is a number, not {text!r:.80}")
    return text


def _check_parts(patterns: Mapping[str, Pattern]) -> None:
    if missing := [part for part in ("up", "down") if part not in patterns]:
        raise OptionError(f"no pattern for {listing(missing)}, as {missing[0]}={{target}}.B")
    parts: dict[Pattern, str] = {}
    for part, pattern in patterns.items():
        if (other := parts.setdefault(pattern, part)) != part:
            raise OptionError(f"{other} and {part} have the same pattern, {pattern}")
