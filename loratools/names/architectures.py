"""The architectures whose names are known in two layouts, and how a model is recognised as one.

Each file `aliases/*.txt` is an architecture: its `name`, the `component` of a pipeline that it is,
the `sides` if they are called otherwise than `original` and `diffusers`, the `variants` that have
modules of their own, and its rules. Other models may have nearly all of its names: then `holds` is
a word that a name of this one must have, or several of which one is enough, and `lacks` words that
only the others have.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import final

from loratools.names.patterns import depths_of
from loratools.names.rules import Rules, Side, parse_rules

#: The least part of a model's names that the rules of its architecture know. Checkpoints may hold
#: buffers besides, and weights of other programs.
_KNOWN = 0.9
_SIDES: tuple[Side, ...] = ("original", "diffusers")


@final
@dataclass(frozen=True)
class Architecture:
    """An architecture whose tensors have names in two layouts.

    Attributes:
        name: its usual name.
        component: the component of diffusers' pipelines that it is.
        sides: the names of both layouts, in words.
        variants: the names of variants by what only names of their tensors begin with.
        rules: how the names of one layout are those of the other.
        holds: words of which one is in a name of every such model; empty if no other is like it.
        lacks: words that are in no name of such a model, but in one of another that is like it.
    """

    name: str
    component: str
    sides: Mapping[Side, str]
    variants: Mapping[str, str]
    rules: Rules
    holds: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()

    def recognised(self, names: Collection[str], depths: Mapping[str, int]) -> "Recognised | None":
        """How many of these names it knows, on the side on which it knows more; None for none."""
        words = {name.partition(".")[0] for name in names}
        found = []
        for side in _SIDES:
            if words & self.rules.words(side):
                lengths = [self.rules.length(name, side, depths) for name in names]
                found.append(
                    Recognised(self, self.name, side, sum(map(bool, lengths)), sum(lengths))
                )
        best = max(found, key=lambda one: one.known, default=None)
        if best is None or not best.known:
            return None
        variants = (
            variant
            for beginning, variant in self.variants.items()
            if any(f"{name}.".startswith(f"{beginning}.") for name in names)
        )
        return replace(best, name=next(variants, self.name))


@final
@dataclass(frozen=True)
class Recognised:
    """What a model's names show: an architecture, and the side on which its names are.

    Attributes:
        architecture: the architecture.
        name: its name, or that of its variant.
        side: the side.
        known: the number of names that its rules know.
        length: the number of words in these names that the rules know.
    """

    architecture: Architecture
    name: str
    side: Side
    known: int
    length: int

    def sureness(self) -> tuple[int, int, int]:
        """A sorting key: the greatest is the most certain of several."""
        return self.known, self.length, -len(self.architecture.rules.rules)

    @property
    def words(self) -> str:
        """The architecture and the layout for people: `FLUX.1, original layout`."""
        return f"{self.name}, {self.architecture.sides[self.side]} layout"


@cache
def architectures() -> tuple[Architecture, ...]:
    """All architectures whose names are known, in the order of their files."""
    folder = files("loratools.names") / "aliases"
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    return tuple(_parsed(file.read_text("utf-8")) for file in found)


def recognised(names: Collection[str]) -> Recognised | None:
    """The architecture that knows most of a model's names, if it knows nearly all of them.

    If several know as many, the one whose rules know more of each name, or that has fewer of them.
    Those of which it lacks what each of them holds are left out. If it has what the best one lacks,
    it is a model that is like this one and is not known.
    """
    first = {name.partition(".")[0] for name in names}
    words = {word for name in names for word in name.split(".")}
    likely = [
        a
        for a in architectures()
        if any(first & a.rules.words(side) for side in _SIDES) and (not a.holds or a.holds & words)
    ]
    depths = depths_of(names) if likely else {}
    found = filter(None, (architecture.recognised(names, depths) for architecture in likely))
    best = max(found, key=Recognised.sureness, default=None)
    if best is None or best.known < _KNOWN * len(names):
        return None
    return None if best.architecture.lacks & words else best


def recognised_whole(names: Collection[str]) -> Recognised | None:
    """As `recognised`, for a model inside of modules that are not those of an image model.

    Some layers do not show that it is one: language models have some of the same names. At least
    half of the words that names of the architecture begin with must be there.
    """
    found = recognised(names)
    if found is None:
        return None
    words = found.architecture.rules.words(found.side)
    here = words & {name.partition(".")[0] for name in names}
    return found if 2 * len(here) >= len(words) else None


def _parsed(text: str) -> Architecture:
    fields, rules = parse_rules(text)
    original, _, diffusers = fields.get("sides", "original | diffusers").partition(" | ")
    sides: dict[Side, str] = {"original": original, "diffusers": diffusers}
    variants = {
        word: name
        for variant in filter(None, fields.get("variants", "").split("; "))
        for name, _, words in [variant.partition(" with ")]
        for word in words.split(" or ")
    }
    holds, lacks = (
        frozenset(filter(None, fields.get(field, "").split(" or "))) for field in ("holds", "lacks")
    )
    return Architecture(fields["name"], fields["component"], sides, variants, rules, holds, lacks)
