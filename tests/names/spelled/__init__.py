"""How programs spell the modules of adapters, and which weights of a model these are.

`MODEL.txt` has a line `ORIGINAL ROWS = DIFFUSERS` for a module of each kind: what its weight is
called in both layouts, and which rows of the original are diffusers' tensor, in its order; all of
them if there are none. A line `PROGRAM: PREFIX SIDE: SUFFIXES` says what a program's keys are: the
prefix (`-` is none), the module by its name on that side, and the suffix of a factor or of alpha.
`flattened` after the side means that the dots in the module's name are underscores. Where a program
has names of its own, its line has no prefix, and those are listed below it.

These are facts about published adapters and about diffusers' converters of them and of checkpoints.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

from loratools.names.rules import Side

#: A range of rows, with its end excluded.
Range = tuple[int, int]
SIDES: tuple[Side, Side] = ("original", "diffusers")

_FOLDER = Path(__file__).parent
MODELS = tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


@final
class Pair(NamedTuple):
    """A module by its names in both layouts, and the rows of the original, if they are not all."""

    original: str
    diffusers: str
    ranges: tuple[Range, ...]

    def name(self, side: Side) -> str:
        """The name on a side."""
        return self.original if side == "original" else self.diffusers


@final
class Spelling(NamedTuple):
    """How a program calls modules: the side and the names of these by its own, and suffixes."""

    program: str
    suffixes: tuple[str, ...]
    modules: dict[str, tuple[Side, str]]


@final
class Spelled(NamedTuple):
    """Modules of a model in both layouts, and what programs call them."""

    pairs: tuple[Pair, ...]
    spellings: tuple[Spelling, ...]


def spelled(model: str) -> Spelled:
    """What is known of a model, one of `MODELS`."""
    text = (_FOLDER / f"{model}.txt").read_text(encoding="utf-8")
    first, _, second = text.partition("\n\n")
    pairs = tuple(_pair(line) for line in first.splitlines())
    return Spelled(pairs, _spellings(pairs, second.splitlines()))


def _pair(line: str) -> Pair:
    (original, *ranges), diffusers = (part.split() for part in line.split(" = "))
    bounds = (text.split(":") for text in ranges)
    return Pair(original, diffusers[0], tuple((int(begin), int(end)) for begin, end in bounds))


def _spellings(pairs: Sequence[Pair], lines: Sequence[str]) -> tuple[Spelling, ...]:
    known = {side: {pair.name(side) for pair in pairs} for side in SIDES}
    found: list[Spelling] = []
    for line in lines:
        if line.startswith("  "):
            own, name = line.strip().split(" = ")
            side = next(side for side in SIDES if name in known[side])
            found[-1].modules[own] = (side, name)
            continue
        program, *how, suffixes = line.split(": ")
        modules: dict[str, tuple[Side, str]] = {}
        if how:
            prefix, word, *flattened = how[0].split()
            side = next(side for side in SIDES if side == word)
            for name in sorted(known[side]):
                own = name.replace(".", "_") if flattened else name
                modules[prefix.removeprefix("-") + own] = (side, name)
        found.append(Spelling(program, tuple(suffixes.split()), modules))
    return tuple(found)
