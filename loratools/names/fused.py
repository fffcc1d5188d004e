"""The names that the parts of fused weights have apart, and fused weights whose parts a base has.

An architecture of `aliases/` names every tensor of a model. Language models are too many for that,
and are nested in others; but few of their weights are fused. So the rules of `fused.txt` name these
modules alone, by their last two words.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import Any, final

from loratools.names.rules import Bound, Part, Rows, Rule, parse_rules

#: Modules that may be parts of others, and what the name of such another has.
_PARTS = (
    (
        re.compile(r"(to_|proj_|w|lin_|linear_)?(q|k|v|query|key|value)(_proj|_lin)?"),
        "qkv|query_key",
    ),
    (re.compile(r"(gate|up)(_proj)?|w1|w3"), "gate_up|up_gate|w12|w13|ff_proj"),
)


@final
@dataclass(frozen=True, eq=False)
class Fusion:
    """A fused weight by the last two words of its module, and its parts in the order of their rows.

    Attributes:
        whole: the words of the fused module.
        parts: the words of each part, and which of the rows it has.
        models: the model types whose checkpoints have it with rows in this order.
        is_made: whether it is known in bases that have the parts.
        queries: the words of the module whose columns are as many as the rows of the first part.
    """

    whole: str
    parts: tuple[tuple[str, Rows], ...]
    models: frozenset[str]
    is_made: bool
    queries: str | None

    def of_whole(
        self, prefix: str, leaf: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> Iterator[Part]:
        """The parts of a weight that a base has fused; none if their sizes are not known."""
        whole = f"{prefix}{self.whole}.{leaf}"
        size = shapes[whole][0] if shapes[whole] else 0
        names = [f"{prefix}{part}.{leaf}" for part, _ in self.parts]
        if any(name in shapes for name in names):
            return
        if self.queries is None:
            yield from self._parts(prefix, leaf)
            return
        reader = shapes.get(f"{prefix}{self.queries}.weight", ())
        for name, rows in zip(names, self._sized(size, reader[-1] if reader else 0), strict=False):
            yield Part(whole, name, rows)

    @cache  # noqa: B019
    def _sized(self, size: int, queries: int) -> tuple[Rows, ...]:
        """The rows of each part, of which the first has `queries` and the others as many each."""
        rest, odd = divmod(size - queries, len(self.parts) - 1)
        if odd or rest <= 0 or queries <= 0:
            return ()
        own = [queries, *[rest] * (len(self.parts) - 1)]
        found = [rows.resolved(size, n) for (_, rows), n in zip(self.parts, own, strict=True)]
        return tuple(_fixed(ranges, size) for ranges in found if ranges)

    def of_parts(
        self, prefix: str, leaf: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> Iterator[Part]:
        """The parts of a weight that a base has apart, if it has all of them and nothing fused."""
        parts = tuple(self._parts(prefix, leaf))
        if parts[0].original not in shapes and all(part.diffusers in shapes for part in parts):
            yield from parts

    def _parts(self, prefix: str, leaf: str) -> Iterator[Part]:
        for part, rows in self.parts:
            yield Part(f"{prefix}{self.whole}.{leaf}", f"{prefix}{part}.{leaf}", rows)


def models_of(config: Mapping[str, Any] | None) -> frozenset[str]:
    """The types of the models that a `config.json` describes: its own, and those inside of it."""
    if config is None:
        return frozenset()
    own = config.get("model_type")
    inner = (models_of(value) for value in config.values() if isinstance(value, dict))
    return frozenset([own] if isinstance(own, str) else []).union(*inner)


def fused_parts(
    shapes: Mapping[str, tuple[int, ...]], models: frozenset[str]
) -> Iterator[tuple[Part, ...]]:
    """What is fused in a base of these model types, or may be in adapters for it.

    Each group is of one fusion, and has all parts of each weight.
    """
    wholes: dict[str, list[Fusion]] = {}
    firsts: dict[str, list[Fusion]] = {}
    for fusion in fusions():
        if fusion.models & models:
            wholes.setdefault(fusion.whole, []).append(fusion)
        if fusion.is_made:
            firsts.setdefault(fusion.parts[0][0], []).append(fusion)
    found: dict[Fusion, list[Part]] = {}
    for name in shapes:
        prefix, module, leaf = _split(name)
        for fusion in wholes.get(module, ()):
            found.setdefault(fusion, []).extend(fusion.of_whole(prefix, leaf, shapes))
        for fusion in firsts.get(module, ()):
            found.setdefault(fusion, []).extend(fusion.of_parts(prefix, leaf, shapes))
    yield from (tuple(parts) for parts in found.values())


def fused_with(target: str, names: Iterable[str]) -> str | None:
    """The name of a weight that seems to have the target fused with others, for a message."""
    prefix, module, leaf = _split(target)
    parent, _, last = module.rpartition(".")
    words = next((words for part, words in _PARTS if part.fullmatch(last)), None)
    if words is None:
        return None
    layer = prefix.rstrip(".").rpartition(".")[2]
    inside = f"{layer}.{parent}." if layer.isdigit() else f"{parent}."
    fused = re.compile(rf"(^|\.){re.escape(inside)}\w*({words})\w*\.{re.escape(leaf)}")
    return next((name for name in names if fused.search(name)), None)


@cache
def fusions() -> tuple[Fusion, ...]:
    """The fusions that are known, in the order of their file."""
    text = (files("loratools.names") / "fused.txt").read_text("utf-8")
    blocks = (parse_rules(block) for block in re.split(r"\n\s*\n", text))
    return tuple(_fusion(fields, rules.rules) for fields, rules in blocks if rules.rules)


def _fusion(fields: Mapping[str, str], rules: tuple[Rule, ...]) -> Fusion:
    parts = tuple((".".join(rule.diffusers or ()), rule.rows) for rule in rules)
    return Fusion(
        whole=".".join(rules[0].original),
        parts=parts,
        models=frozenset(fields["fused"].split()),
        is_made=fields.get("split") == "any",
        queries=fields.get("queries"),
    )


def _split(name: str) -> tuple[str, str, str]:
    """What precedes the last two words of a module, these words, and the name of its parameter.

    >>> _split("model.layers.0.mlp.up_proj.weight")
    ('model.layers.0.', 'mlp.up_proj', 'weight')
    """
    words = name.rsplit(".", 3)
    prefix = f"{words[0]}." if len(words) == 4 else ""
    return prefix, ".".join(words[-3:-1]), words[-1]


def _fixed(ranges: Iterable[tuple[int, int]], size: int) -> Rows:
    """These rows of a tensor that has `size` of them, whatever the number of the part's rows."""
    bounds = (tuple(Bound(Fraction(at, size), 0) for at in pair) for pair in ranges)
    return Rows(tuple((first, last) for first, last in bounds))
