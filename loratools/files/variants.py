"""The variants of a model's weights in one folder, as diffusers and transformers name their files.

A variant is a copy of the weights in another dtype or of another step of the training, with a name
of its own: `diffusion_pytorch_model.fp16.safetensors`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from loratools.errors import FormatError, listing, shorten
from loratools.io.checkpoint import INDEX_SUFFIX
from loratools.io.folder import Folder
from loratools.io.index import shard_parts
from loratools.typed import option

#: The name, for an option, of the files that have no variant's name.
PLAIN: Final = "none"
_STEM = "(diffusion_pytorch_model|model)"
#: A whole file, or one of several: the variant's name is before the number, earlier was behind it.
_FILE = re.compile(rf"{_STEM}(\.(?P<v>[^.]+?))?(-\d+-of-\d+(\.(?P<earlier>[^.]+))?)?\.safetensors")
#: In the name of an index it is before `json`; earlier it was before `index`.
_INDEX = re.compile(
    rf"{_STEM}(\.(?P<v>[^.]+))?\.safetensors(\.(?P<earlier>[^.]+))?\.index(\.(?P<last>[^.]+))?\.json"
)


def variants(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of weight files and indexes, by the variant that they are of, `PLAIN` without one.

    Files whose names neither diffusers nor transformers gives to weights are left out.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        if _FILE.fullmatch(name) or _INDEX.fullmatch(name):
            found.setdefault(variant_of(name) or PLAIN, []).append(name)
    return found


def variant_of(name: str) -> str | None:
    """The variant that a weight file, or an index, has in its name; None if it has none."""
    match = _FILE.fullmatch(name) or _INDEX.fullmatch(name)
    return match and next(filter(None, match.groupdict().values()), None)


def choose(found: Mapping[str, list[str]], variant: str | None, where: str) -> str:
    """The variant to read: the given one if there is such, else the files without a name of one.

    Raises:
        FormatError: none is given and there are several, or all are of other variants.
    """
    if variant is None and len(found) == 1:
        return next(iter(found))
    chosen = next((name for name in (variant, PLAIN) if name in found), None)
    if variant is not None and chosen is not None:
        return chosen
    if variant is None:
        raise FormatError(
            f"{where}: has its weights more than once", hint=f"choose with {_options(found)}"
        )
    raise no_such_variant(where, variant, found)


def parts_alone(where: str, names: Iterable[str]) -> FormatError:
    """The error for parts of a model's weights without their index."""
    return FormatError(
        f"{where}: {listing(names)}: parts of the weights, without the index that says what "
        f"belongs to them",
        hint="download the .safetensors.index.json too",
    )


def no_such_variant(where: str, variant: str, found: Iterable[str]) -> FormatError:
    """The error for a variant that a model does not have, with those that it has."""
    instead = _options(found)
    return FormatError(
        f"{where}: has no weights of the variant {shorten(variant)!r}",
        hint=f"use {instead}" if instead else "leave it out",
    )


def _options(found: Iterable[str]) -> str:
    return " or ".join(option("variant", name) for name in found)


def stem_of(name: str) -> str:
    """What the names of all parts of the weights begin with, by the name of one of them.

    >>> stem_of("model-00001-of-00002.safetensors"), stem_of("model.fp16.safetensors")
    ('model', 'model.fp16')
    """
    parts = shard_parts(name)
    return parts[0] if parts else name.removesuffix(".safetensors")


def index_of(stem: str) -> str:
    """The name of the index of weights in parts that have this stem.

    >>> index_of("model.fp16")
    'model.safetensors.index.fp16.json'
    """
    variant = variant_of(f"{stem}.safetensors")
    if variant is None:
        return f"{stem}{INDEX_SUFFIX}"
    return f"{stem.removesuffix(f'.{variant}')}.safetensors.index.{variant}.json"


def only_file(folder: Folder, names: list[str]) -> str:
    """Of the files of one variant, the one that is the whole, or the index of its parts.

    Raises:
        FormatError: there are parts without an index, or several files are the whole.
    """
    whole = [name for name in names if shard_parts(name) is None]
    if len(whole) == 1:
        return whole[0]
    if not whole:
        raise parts_alone(folder.where, names)
    raise FormatError(
        f"{folder.where}: has {listing(whole)}, and readers differ in which they take",
        hint="name the one to use",
    )
