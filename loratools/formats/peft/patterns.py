"""Which modules the patterns of a PEFT config mean, by the rules PEFT hands them to `re` with.

Most patterns are names, or the ends of names, and are looked up. All others are matched by `re`
itself, in one process with limits, so that no file decides how long it is read.
"""

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, final

from loratools.errors import FormatError
from loratools.formats.peft.name_tree import NameTree
from loratools.io.regex import Regex, search

#: How PEFT matches: a path to its end, from its start or after a dot; a whole path; the number of
#: the layer behind a name; a path with the module in it.
Rule = Literal["end", "whole", "layer", "inside"]
#: Module paths, each with the number of its layer where that was asked for.
Hits = Mapping[str, str | None]
_T = TypeVar("_T", bound=Hashable)

_TEMPLATES = {
    "end": r"(.*\.)?({})$",
    "whole": "{}",
    "layer": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "inside": r"(^|.*\.){}($|\..*)",
}
#: Nothing that `re` repeats, chooses or groups: plain characters, escaped ones, and any character.
_NAME = re.compile(r"(?P<anchor>\^?)(?P<name>(?:[^\\^$*+?{}\[\]|()]|\\[^0-9A-Za-z])*)(?P<end>\$?)")
_DOT = re.compile(r"\.")
_TOKEN = re.compile(r"\\(.)|(\.)|([^\\.]+)", re.DOTALL)
#: Of names times modules, in characters: what `re` may do here, which is at most a second's work.
_LITTLE = 200_000_000


@final
@dataclass(frozen=True)
class Pattern:
    """A pattern in a field of a config, and the rule it is matched by."""

    field: str
    text: str
    rule: Rule

    @property
    def regex(self) -> Regex:
        """What PEFT hands to `re`."""
        pattern = _TEMPLATES[self.rule].replace("{}", self.text)
        return Regex(pattern, "fullmatch" if self.rule == "whole" else "match")

    def hits_here(self, modules: Sequence[str]) -> Hits:
        """What it matches, by `re` in this process: for names only."""
        compiled = re.compile(self.regex.pattern)
        found = ((module, compiled.match(module)) for module in modules)
        return {module: match.groupdict().get("idx") for module, match in found if match}


def matched(patterns: Sequence[Pattern], modules: Sequence[str], where: str) -> dict[Pattern, Hits]:
    """Which of the modules each of the patterns means.

    Raises:
        FormatError: a pattern is not a regular expression, or cannot be matched within the limits.
    """
    # To `re` the end of a line is nearly the end of a text, and no character is.
    names = [] if any("\n" in module for module in modules) else [*filter(_is_name, patterns)]
    found = _look_up([name for name in names if name.rule != "layer"], modules, where)
    small = [name for name in names if name.rule == "layer"]
    if sum(len(p.text) + 1 for p in small) * sum(map(len, modules)) <= _LITTLE:
        found |= {pattern: pattern.hits_here(modules) for pattern in small}
    others = [pattern for pattern in patterns if pattern not in found]
    for pattern, answer in zip(others, search([p.regex for p in others], modules), strict=False):
        if answer.fault is not None:
            raise FormatError(f"{where}: {pattern.field}: {pattern.text!r:.80} {answer.fault}")
        found[pattern] = answer.hits
    return {pattern: found[pattern] for pattern in patterns}


def named(names: Sequence[str], modules: Sequence[str], where: str) -> dict[str, list[str]]:
    """By module, the names in a list that mean it: its own, or an end of it after a dot.

    Where its own is listed, other listed names of whole modules that mean it too are left out.
    """
    paths, listed = set(modules), dict.fromkeys(names)
    found: dict[str, list[str]] = {module: [module] for module in modules if module in listed}
    _add_ends(found, [name for name in listed if name not in paths], modules, where)
    others = [module for module in modules if module not in found]
    _add_ends(found, [name for name in listed if name in paths], others, where)
    return found


def _add_ends(
    found: dict[str, list[str]], names: Sequence[str], modules: Sequence[str], where: str
) -> None:
    if not names:
        return
    tree: NameTree[str] = NameTree()
    for name in names:
        tree.add(name, [name])
    # As many parts of a path as the longest name has decide: the same for most modules of a model.
    count = 1 + max(name.count(".") for name in names)
    ends = [".".join(module.rsplit(".", count)[-count:]) for module in modules]
    hits_of = dict(_find_all(tree, dict.fromkeys(ends), where))
    for module, end in zip(modules, ends, strict=True):
        if hits := hits_of[end]:
            found[module] = [*found[module], *hits] if module in found else hits


def _is_name(pattern: Pattern) -> bool:
    return _NAME.fullmatch(pattern.text) is not None


def _look_up(
    patterns: Sequence[Pattern], modules: Sequence[str], where: str
) -> dict[Pattern, Hits]:
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
        for module, hits in _find_all(tree, modules, where, inside=is_inside):
            for pattern in hits:
                found[pattern][module] = None
    return dict(found)


def _find_all(
    tree: NameTree[_T], modules: Iterable[str], where: str, *, inside: bool = False
) -> Iterator[tuple[str, list[_T]]]:
    """The names that mean each of the modules; or, `inside`, a module that it is in as well."""
    for number, module in enumerate(() if tree.is_empty else modules, 1):
        dots = [match.start() for match in _DOT.finditer(module)] if inside else []
        yield module, [value for end in (*dots, len(module)) for value in tree.find(module, end)]
        if tree.lookups > tree.limit(number):
            raise FormatError(f"{where}: too many of the names match the same modules")


def _parts(name: str) -> list[str]:
    """What stands between the dots that mean any character."""
    parts = [""]
    for escaped, dot, plain in _TOKEN.findall(name):
        if dot:
            parts.append("")
        else:
            parts[-1] += escaped or plain
    return parts
