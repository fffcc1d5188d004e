"""A pipeline of diffusers: a folder whose `model_index.json` names its components.

Each component has a folder of its own, some of them with weights.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from loratools.errors import FormatError, listing, shorten
from loratools.files.beside import WEIGHT_SUFFIXES
from loratools.files.variants import PLAIN, choose, only_file, variants
from loratools.io.folder import Folder, read_json_in
from loratools.io.index import is_index

MODEL_INDEX = "model_index.json"
#: Classes that have no weights, by parts of their names.
_NO_MODEL = re.compile("Tokenizer|Processor|Extractor|Scheduler")


@final
@dataclass(frozen=True)
class Pipeline:
    """The weight files of a pipeline, of one variant.

    Attributes:
        weights: the name of the weight file, or of the index, in the folder of each component.
        lacking: the components whose weights cannot be read, with the reasons.
        unread: the paths of the weight files of those, which can only be copied.
        notes: which variant was taken, and what cannot be read.
    """

    weights: Mapping[str, str]
    lacking: Mapping[str, str]
    unread: tuple[str, ...]
    notes: tuple[str, ...]


def is_pipeline(folder: Folder) -> bool:
    """Whether a folder is a pipeline."""
    return MODEL_INDEX in folder.names()


def find_pipeline(folder: Folder, variant: str | None) -> Pipeline:
    """Find the weight files of a pipeline: of the variant, where a component has it.

    Raises:
        FormatError: `model_index.json` is malformed, a component has several variants and none is
            chosen, or it is not clear which of its files are the weights.
        StorageError: a folder cannot be read.
    """
    weights: dict[str, str] = {}
    taken: dict[str, str] = {}
    lacking: dict[str, str] = {}
    unread: list[str] = []
    every = folder.all_names(depth=1)
    for component, is_model in _components(folder):
        if component in every:
            raise FormatError(f"{folder.where}/{component}: a link or a file, and no folder")
        names = [n.removeprefix(f"{component}/") for n in every if n.startswith(f"{component}/")]
        found = variants(names)
        if found:
            place = folder.subfolder(component)
            taken[component] = choose(found, variant, place.where)
            weights[component] = only_file(place, found[taken[component]])
            continue
        others = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
        if reason := _reason(names, others, is_model=is_model):
            lacking[component] = reason
        if others:
            unread += [f"{component}/{n}" for n in names if n in others or is_index(n)]
    if not weights:
        raise FormatError(f"{folder.where}: a pipeline without safetensors files{_why(lacking)}")
    if variant is not None and variant not in {PLAIN, *taken.values()}:
        raise FormatError(
            f"{folder.where}: no component has weights of the variant {shorten(variant)!r}"
        )
    return Pipeline(weights, lacking, tuple(unread), tuple(_notes(taken, variant, lacking)))


def _reason(names: Sequence[str], others: Sequence[str], *, is_model: bool) -> str | None:
    """Why a component has no weights to read; None if it is one that has none.

    `others` are the weights among the names of its files, none of which is read.
    """
    if not names:
        return f"{MODEL_INDEX} names it, and there is no such folder"
    if others:
        return f"no safetensors that diffusers loads, but {listing(others)}"
    return "its folder has no weights" if is_model and "config.json" in names else None


def _components(folder: Folder) -> Iterator[tuple[str, bool]]:
    """The names of a pipeline's components, and whether their classes may be those of models.

    Those that are null in `model_index.json` are left out.
    """
    where = f"{folder.where}/{MODEL_INDEX}"
    for name, entry in read_json_in(folder, MODEL_INDEX).items():
        # An entry is the library and the name of a class; other fields are settings.
        is_class = isinstance(entry, list) and [type(part) for part in entry] == [str, str]
        if is_class and not name.startswith("_"):
            if not name.isidentifier():
                raise FormatError(f"{where}: {shorten(name)!r} is not the name of a component")
            yield name, _NO_MODEL.search(entry[1]) is None


def _notes(
    taken: Mapping[str, str], variant: str | None, lacking: Mapping[str, str]
) -> Iterator[str]:
    """Which variants were taken, if any has a name, and which weights are not read."""
    groups: dict[str, list[str]] = {}
    for component, name in taken.items():
        groups.setdefault(name, []).append(component)
    if set(groups) != {PLAIN}:
        for name, components in groups.items():
            what = "without a variant" if name == PLAIN else f"of the variant {name}"
            yield f"files {what}: {listing(components)}"
    for component, reason in lacking.items():
        yield f"{component}: not read: {reason}"


def _why(lacking: Mapping[str, str]) -> str:
    reasons = (f"{component}: {reason}" for component, reason in lacking.items())
    return f" ({', '.join(reasons)})" if lacking else ""
