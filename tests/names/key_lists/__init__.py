"""What published models call their tensors in the original layout, and the shapes of these.

`MODEL.txt` has a line `NAMES SHAPE` for tensors of one shape. `{0..3}` stands for each of these
numbers, and `{a,b}` for each of these words. If blocks are alike, only the first two are listed.
A line `also NAMES SHAPE` has names that other programs use for some of these tensors. The first
line, `rules: FILE`, says which file of `loratools/names/aliases/` maps them.

These are facts about published files. Our rules are verified against them, and not made of them.
"""

import re
from itertools import product
from pathlib import Path
from typing import NamedTuple, final

import loratools.names

ALIASES = Path(loratools.names.__file__).parent / "aliases"

_FOLDER = Path(__file__).parent
MODELS = tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))

_CHOICE = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^}]*))\}")


@final
class KeyList(NamedTuple):
    """The names of a model's tensors with their shapes, and other names for some of them.

    `rules` is the name of the file of rules that maps them.
    """

    rules: str
    tensors: dict[str, tuple[int, ...]]
    others: dict[str, tuple[int, ...]]

    def rules_text(self) -> str:
        """The text of the file of rules."""
        return (ALIASES / f"{self.rules}.txt").read_text(encoding="utf-8")


def key_list(model: str) -> KeyList:
    """The key list of a model, one of `MODELS`."""
    first, *lines = (_FOLDER / f"{model}.txt").read_text(encoding="utf-8").splitlines()
    found = KeyList(first.removeprefix("rules: "), {}, {})
    for line in lines:
        *also, names, shape = line.split()
        dimensions = () if shape == "scalar" else tuple(map(int, shape.split("x")))
        (found.others if also else found.tensors).update(dict.fromkeys(_each(names), dimensions))
    return found


def _each(names: str) -> list[str]:
    """Each of the names that a pattern stands for."""
    choices = []
    end = 0
    for found in _CHOICE.finditer(names):
        first, last, words = found.groups()
        choices.append([names[end : found.start()]])
        choices.append(
            words.split(",") if words else [str(i) for i in range(int(first), int(last) + 1)]
        )
        end = found.end()
    return ["".join(parts) for parts in product(*choices, [names[end:]])]
