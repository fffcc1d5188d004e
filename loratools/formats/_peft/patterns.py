"""Finds the modules that the patterns of a PEFT config match, by the rules that PEFT applies.

PEFT passes all patterns to Python's `re`. Most are names of modules or suffixes of names, which are
looked up here. All others are matched by `re` in one process with limits on time and memory,
because a pattern in a file could otherwise keep `re` busy forever.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, final

from loratools.errors import FormatError, errors_of, listing
from loratools.formats._peft.name_tree import NameTree
from loratools.io.regex import Regex, search

#: How PEFT matches a pattern. "end": a suffix of a path, from its start or after a dot. "whole": a
#: whole path. "layer": a name in a path, followed by the number of a layer. "inside": a module in
#: whose path the pattern is followed by a dot or the end.
Rule = Literal["end", "whole", "layer", "inside"]
#: The paths of the modules that match, each with the number of its layer for the rule "layer".
Hits = Mapping[str, str | None]
_T = TypeVar("_T", bound=Hashable)

_TEMPLATES = {
    "end": r"(.*\.)?({})$",
    "whole": "{}",
    "layer": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "inside": r"(^|.*\.){}($|\..*)",
}
#: A pattern that is a name: plain characters, escaped ones, and dots for any character. Nothing in
#: it is repeated, chosen or grouped, so it can be looked up.
_NAME = re.compile(r"(?P<anchor>\^?)(?P<name>(?:[^\\^$*+?{}\[\]|()]|\\[^0-9A-Za-z])*)(?P<end>\$?)")
_DOT = re.compile(r"\.")
_TOKEN = re.compile(r"\\(.)|(\.)|([^\\.]+)", re.DOTALL)
#: The limit on the characters of names times the characters of modules up to which `re` runs in
#: this process. It takes a second at most.
_LITTLE = 200_000_000


@final
@dataclass(frozen=True)
class Pattern:
    """A pattern in a field of a config, and the rule by which it is matched."""

    field: str
    text: str
    rule: Rule

    @property
    def regex(self) -> Regex:
        """The regular expression that PEFT passes to `re`."""
        pattern = _TEMPLATES[self.rule].replace("{}", self.text)
        return Regex(pattern, "fullmatch" if self.rule == "whole" else "match")

    def hits_here(self, modules: Sequence[str]) -> Hits:
        """Match with `re` in this process, which has no limits: for names only."""
        compiled = re.compile(self.regex.pattern)
        found = ((module, compiled.match(module)) for module in modules)
        return {module: match.groupdict().get("idx") for module, match in found if match}


def matched(patterns: Sequence[Pattern], modules: Sequence[str]) -> dict[Pattern, Hits]:
    """The modules that each of the patterns matches.

    Raises:
        FormatError: a pattern is not a regular expression, or cannot be matched within the limits.
    """
    # To `re`, `$` also matches before a newline at the end, and `.` does not match a newline. A
    # lookup does neither, so if any path has a newline, `re` matches all patterns.
    names = [] if any("\n" in module for module in modules) else [*filter(_is_name, patterns)]
    with errors_of(listing({name.field: None for name in names})):
        found = _look_up([name for name in names if name.rule != "layer"], modules)
    small = [name for name in names if name.rule == "layer"]
    if sum(len(p.text) + 1 for p in small) * sum(map(len, modules)) <= _LITTLE:
        found |= {pattern: pattern.hits_here(modules) for pattern in small}
    others = [pattern for pattern in patterns if pattern not in found]
    # The answers may be fewer: they end with the first pattern that exceeds the limits.
    for pattern, answer in zip(others, search([p.regex for p in others], modules), strict=False):
        if answer.fault is not None:
            raise FormatError(f"{pattern.field}: {pattern.text!r:.80} {answer.fault}")
        found[pattern] = answer.hits
    return {pattern: found[pattern] for pattern in patterns}


def named(names: Sequence[str], modules: Sequence[str]) -> dict[str, list[str]]:
    """The names in a list that mean each module: its whole path, or a suffix of it after a dot.

    A suffix that is itself the whole path of another module is looked up only for modules that no
    other name in the list means.
    """
    paths, listed = set(modules), dict.fromkeys(names)
    found: dict[str, list[str]] = {module: [module] for module in modules if module in listed}
    _add_ends(found, [name for name in listed if name not in paths], modules)
    others = [module for module in modules if module not in found]
    _add_ends(found, [name for name in listed if name in paths], others)
    return found


def _add_ends(found: dict[str, list[str]], names: Sequence[str], modules: Sequence[str]) -> None:
    """Add to `found` the names that are suffixes of each module's path."""
    if not names:
        return
    tree: NameTree[str] = NameTree()
    for name in names:
        tree.add(name, [name])
    # Only as many last parts of a path matter as the longest name has. Most modules of a model have
    # them in common, so each such suffix is looked up once.
    count = 1 + max(name.count(".") for name in names)
    ends = [".".join(module.rsplit(".", count)[-count:]) for module in modules]
    hits_of = dict(_find_all(tree, dict.fromkeys(ends)))
    for module, end in zip(modules, ends, strict=True):
        if hits := hits_of[end]:
            found[module] = [*found[module], *hits] if module in found else hits


def _is_name(pattern: Pattern) -> bool:
    return _NAME.fullmatch(pattern.text) is not None


def _look_up(patterns: Sequence[Pattern], modules: Sequence[str]) -> dict[Pattern, Hits]:
    """The modules that each of the patterns, all of them names, matches."""
    ends: NameTree[Pattern] = NameTree()
    insides: NameTree[Pattern] = NameTree()
    for pattern in patterns:
        match = _NAME.fullmatch(pattern.text)
        assert match is not None
        tree = insides if pattern.rule == "inside" and not match["end"] else ends
        is_whole = pattern.rule == "whole" or match["anchor"] == "^"
        tree.add(pattern, _parts(match["name"]), is_whole=is_whole)
    found: dict[Pattern, dict[str, str | None]] = {pattern: {} for pattern in patterns}
    for tree, is_inside in ((ends, False), (insides, True)):
        for module, hits in _find_all(tree, modules, inside=is_inside):
            for pattern in hits:
                found[pattern][module] = None
    return dict(found)


def _find_all(
    tree: NameTree[_T], modules: Iterable[str], *, inside: bool = False
) -> Iterator[tuple[str, list[_T]]]:
    """The values in `tree` whose names mean each module; with `inside`, or a module around it.

    Raises:
        FormatError: there are too many lookups, because of names that were made to cause that.
    """
    for number, module in enumerate(() if tree.is_empty else modules, 1):
        dots = [match.start() for match in _DOT.finditer(module)] if inside else []
        yield module, [value for end in (*dots, len(module)) for value in tree.find(module, end)]
        if tree.lookups > tree.limit(number):
            raise FormatError("too many of the names match the same modules")


def _parts(name: str) -> list[str]:
    """Split a name at the dots that mean any character, and unescape the parts."""
    parts = [""]
    for escaped, dot, plain in _TOKEN.findall(name):
        if dot:
            parts.append("")
        else:
            parts[-1] += escaped or plain
    return parts
