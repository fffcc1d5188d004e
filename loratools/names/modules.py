"""The names that modules of language and vision models have in other classes, by their last words.

An architecture of `aliases/` names every tensor of a model. Language models are too many for that,
and are nested in others; but only few of their modules have two names, or are fused from others. So
the rules of `modules.txt` name these modules alone, by their last words.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any, NamedTuple, final

from loratools.errors import shorten
from loratools.names.rules import Bound, Part, Rows, Rule, parse_rules

#: Words of the pattern of a module's name; `{i}` is any number.
Pattern = tuple[str, ...]

#: Modules that may be parts of others, and what the name of such another has.
_PARTS = (
    (
        re.compile(r"(to_|proj_|w|lin_|linear_)?(q|k|v|query|key|value)(_proj|_lin)?"),
        "qkv|query_key",
    ),
    (re.compile(r"(gate|up)(_proj)?|w1|w3"), "gate_up|up_gate|w12|w13|ff_proj"),
)
#: A module of one expert, with the number of its layer.
_EXPERT = re.compile(r".*?(\.\d+\.)(?:\w+\.)*experts\.\d+\.")


@final
@dataclass(frozen=True, eq=False)
class Known:
    """A module that checkpoints store, and what it is elsewhere: its parts, or another name.

    Attributes:
        whole: the last words of the stored module.
        parts: the words of each part, in the order of their rows, and which rows it has.
        models: the model types whose checkpoints have it so.
        is_made: whether an adapter for it is applied to any base that has the parts.
        queries: the module whose columns are as many as the rows of the first part.
    """

    whole: Pattern
    parts: tuple[tuple[Pattern, Rows], ...]
    models: frozenset[str]
    is_made: bool
    queries: Pattern | None

    def of_whole(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
        """The parts of a stored tensor; none if their sizes are not known."""
        where = _where(name, self.whole)
        if where is None or any(where.name(part) in shapes for part, _ in self.parts):
            return
        rows = tuple(rows for _, rows in self.parts)
        if self.queries is not None:
            reader = shapes.get(where._replace(leaf="weight").name(self.queries), ())
            rows = self._sized(shapes[name][0], reader[-1]) if reader and shapes[name] else ()
        for (part, _), own in zip(self.parts, rows, strict=False):
            yield Part(name, where.name(part), own)

    def of_parts(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Part]:
        """The parts that a base has apart, by the name of the first; none if another is missing."""
        where = _where(name, self.parts[0][0])
        if where is None or (whole := where.name(self.whole)) in shapes:
            return
        if all(where.name(part) in shapes for part, _ in self.parts):
            yield from (Part(whole, where.name(part), rows) for part, rows in self.parts)

    @cache  # noqa: B019  # there are as many as lines in the file, and none ends before the program
    def _sized(self, size: int, queries: int) -> tuple[Rows, ...]:
        """The rows of each part, of which the first has `queries` and the others as many each."""
        rest, odd = divmod(size - queries, len(self.parts) - 1)
        own = [queries, *[rest] * (len(self.parts) - 1)]
        found = [rows.resolved(size, n) for (_, rows), n in zip(self.parts, own, strict=True)]
        if odd or None in found:
            return ()
        return tuple(_fixed(ranges, size) for ranges in found if ranges is not None)


def models_of(config: Mapping[str, Any] | None) -> frozenset[str]:
    """The types of the models that a `config.json` describes: its own, and those inside of it."""
    if config is None:
        return frozenset()
    own = config.get("model_type")
    inner = (models_of(value) for value in config.values() if isinstance(value, dict))
    return frozenset([own] if isinstance(own, str) else []).union(*inner)


def parts_in(
    shapes: Mapping[str, tuple[int, ...]], models: frozenset[str]
) -> Iterator[tuple[Part, ...]]:
    """What modules of a base of these model types are elsewhere, or are made of elsewhere.

    Each group is of one module, and has all parts of each of its tensors.
    """
    wholes: dict[str, list[Known]] = {}
    firsts: dict[str, list[Known]] = {}
    for known in known_modules():
        if is_of := bool(known.models & models):
            wholes.setdefault(known.whole[-1], []).append(known)
        if is_of or known.is_made:
            firsts.setdefault(known.parts[0][0][-1], []).append(known)
    found: dict[Known, list[Part]] = {}
    for name in shapes:
        module = name.rpartition(".")[0].rpartition(".")[2]
        for known in wholes.get(module, ()):
            found.setdefault(known, []).extend(known.of_whole(name, shapes))
        for known in firsts.get(module, ()):
            found.setdefault(known, []).extend(known.of_parts(name, shapes))
    yield from (tuple(parts) for parts in found.values())


def hint(target: str, shapes: Mapping[str, tuple[int, ...]], models: frozenset[str]) -> str:
    """Why a base lacks a target, if it seems to have it inside of another tensor; else empty."""
    if expert := _EXPERT.match(target):
        stacks = (n for n, shape in shapes.items() if len(shape) == 3 and ".experts." in n)
        if name := next((stack for stack in stacks if expert[1] in stack), None):
            return (
                f"{shorten(name)} stacks the matrices of all experts, to which an update of one "
                f"cannot be added"
            )
    if name := fused_with(target, shapes):
        known = " or ".join(sorted(models)) or "a model without a config.json"
        return (
            f"{shorten(name)} may have it fused with others, and the order of its rows is not "
            f"known of {known}"
        )
    return ""


def fused_with(target: str, names: Iterable[str]) -> str | None:
    """The name of a weight that seems to have the target fused with others; None without one."""
    module, _, leaf = target.rpartition(".")
    outside, _, last = module.rpartition(".")
    words = next((words for part, words in _PARTS if part.fullmatch(last)), None)
    if words is None or not outside:
        return None
    inside = ".".join(outside.split(".")[-2:])
    if not inside.partition(".")[0].isdigit():
        inside = inside.rpartition(".")[2]
    fused = re.compile(rf"(^|\.){re.escape(inside)}\.\w*({words})\w*\.{re.escape(leaf)}")
    # A search in each of a large base's names takes as long as to plan the merge.
    return next((name for name in names if inside in name and fused.search(name)), None)


@cache
def known_modules() -> tuple[Known, ...]:
    """The modules of the file, in its order."""
    text = (files("loratools.names") / "modules.txt").read_text("utf-8")
    blocks = (parse_rules(block) for block in re.split(r"\n\s*\n", text))
    return tuple(known for fields, rules in blocks for known in _known(fields, rules.rules))


def _known(fields: Mapping[str, str], rules: tuple[Rule, ...]) -> Iterator[Known]:
    queries = fields.get("queries")
    for whole, parts in groupby(rules, lambda rule: rule.original):
        yield Known(
            whole=whole,
            parts=tuple((rule.diffusers or (), rule.rows) for rule in parts),
            models=frozenset(fields["models"].split()),
            is_made=fields.get("parts") == "any",
            queries=tuple(queries.split(".")) if queries else None,
        )


@final
class _Where(NamedTuple):
    """Where in a model a module is: what precedes it, its numbers, and the parameter in it."""

    prefix: tuple[str, ...]
    numbers: tuple[str, ...]
    leaf: str

    def name(self, pattern: Pattern) -> str:
        """The name of the same parameter in another module there."""
        numbers = iter(self.numbers)
        words = (next(numbers) if word == "{i}" else word for word in pattern)
        return ".".join((*self.prefix, *words, self.leaf))


def _where(name: str, pattern: Pattern) -> _Where | None:
    """Where the module of a parameter is, if the last words of its name fit a pattern."""
    *words, leaf = name.split(".")
    last = words[-len(pattern) :]
    if len(last) < len(pattern):
        return None
    for word, wanted in zip(last, pattern, strict=True):
        if not (word == wanted or (wanted == "{i}" and word.isdigit())):
            return None
    numbers = (word for word, wanted in zip(last, pattern, strict=True) if wanted == "{i}")
    return _Where(tuple(words[: -len(pattern)]), tuple(numbers), leaf)


def _fixed(ranges: Iterable[tuple[int, int]], size: int) -> Rows:
    """These rows of a tensor that has `size` of them, whatever the number of the part's rows."""
    bounds = (tuple(Bound(Fraction(at, size), 0) for at in pair) for pair in ranges)
    return Rows(tuple((first, last) for first, last in bounds))
