"""The modules of known image and video models, and the dotted names that a flattened name can have.

A flattened name has `_` for each dot, and words of their own contain `_` too: `img_attn_qkv` may be
`img_attn.qkv`. So it is compared with the flattened names of known models. They are in
`layouts.json`, which `scripts/make_layouts.py` makes, as trees of words in which `#` stands for
every number.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, final

from loratools.io.json import parse_json_object

#: Who has named a model's modules: its authors, ComfyUI where that differs, diffusers, or, for text
#: encoders, transformers.
Naming = Literal["original", "comfyui", "diffusers", "transformers"]
_NUMBER = "#"
#: The mark of a word that a path may end with.
_END = ""


@final
class Reading(NamedTuple):
    """A dotted path that a name stands for: in which models, and by whose names.

    `component` is the model's part in a pipeline, as diffusers calls it.
    """

    path: str
    family: str
    naming: Naming
    component: str


@lru_cache(maxsize=2**14)
def readings(name: str) -> tuple[Reading, ...]:
    """All readings of a module's path that is dotted, or flattened with `_` for each dot.

    >>> [(reading.path, reading.naming) for reading in readings("joint_blocks_3_x_block_attn_qkv")]
    [('joint_blocks.3.x_block.attn.qkv', 'original')]
    """
    words = name.replace(".", "_").split("_")
    found = _by_form().get(_form(words), ())
    filled = (reading._replace(path=path) for reading in found if (path := _filled(reading, words)))
    return tuple(reading for reading in filled if "." not in name or reading.path == name)


@cache
def namings(family: str) -> frozenset[Naming]:
    """By whose names the modules of a family are known."""
    every = (reading for some in _by_form().values() for reading in some)
    return frozenset(reading.naming for reading in every if reading.family == family)


def common_families(
    names: Iterable[str], allowed: Collection[Naming] | None
) -> tuple[tuple[str, Naming], ...]:
    """The families with namings that all of these names can be of, without unknown names."""
    common: dict[tuple[str, Naming], None] | None = None
    for name in names:
        found = {
            (r.family, r.naming): None
            for r in readings(name)
            if allowed is None or r.naming in allowed
        }
        if found:
            common = found if common is None else {p: None for p in common if p in found}
    return tuple(common or ())


def _form(words: list[str]) -> str:
    """The words of a flattened name without its numbers."""
    return "_".join(_NUMBER if word.isdecimal() else word for word in words)


def _filled(reading: Reading, words: list[str]) -> str | None:
    """The path of a reading with the numbers of a name; None if a number belongs to a word.

    `linear_1` is a word, and not the module `1` in `linear`.
    """
    theirs = reading.path.replace(".", "_").split("_")
    pairs = list(zip(theirs, words, strict=True))
    if any(their not in (_NUMBER, word) for their, word in pairs):
        return None
    numbers = iter([word for their, word in pairs if their == _NUMBER])
    return ".".join(next(numbers) if w == _NUMBER else w for w in reading.path.split("."))


@cache
def _by_form() -> Mapping[str, tuple[Reading, ...]]:
    """The readings, with `#` for numbers, by the forms of their flattened names."""
    file = Path(__file__).parent / "layouts.json"
    layouts = parse_json_object(file.read_bytes(), file.name)
    found: dict[str, list[Reading]] = {}
    for family, layout in layouts.items():
        component = layout.pop("component")
        for naming, tree in layout.items():
            for path in _paths(tree, ""):
                form = _form(path.replace(".", "_").split("_"))
                found.setdefault(form, []).append(Reading(path, family, naming, component))
    return {form: tuple(some) for form, some in found.items()}


def _paths(tree: Mapping[str, Any], before: str) -> Iterator[str]:
    for word, below in tree.items():
        if word == _END:
            yield before[:-1]
        else:
            yield from _paths(below, f"{before}{word}.")
