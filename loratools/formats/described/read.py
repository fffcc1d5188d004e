"""Reads adapters whose keys the user describes, or the file itself, if loratools wrote it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

from loratools.adapter import Adapter
from loratools.errors import FormatError, listing, shorten
from loratools.formats import Sureness
from loratools.formats._modules.reading import adapter_of
from loratools.formats.described.base import clean_names, weight_of
from loratools.formats.described.description import PARTS, Description, parse
from loratools.formats.described.orientation import Modules, transposed_parts
from loratools.formats.described.stated import KEYS, stated, without_strength
from loratools.io.bundle import Bundle
from loratools.io.source import Source, transposed
from loratools.parts import Note

_OF_MODEL = "a tensor of the model that the file holds too"


def claim(bundle: Bundle) -> Sureness:
    """How sure the dialect is: only where the file's metadata has the description of its keys."""
    return Sureness.CONFIG if KEYS in bundle.metadata else Sureness.NO


def fits(bundle: Bundle, options: Mapping[str, str]) -> bool:
    """Whether the described patterns fit any key of the files."""
    patterns = parse(options["keys"]).patterns.values()
    return any(pattern.target(key) for pattern in patterns for key in bundle.tensors)


def base_names(options: Mapping[str, str]) -> Callable[[Collection[str]], Mapping[str, str]] | None:
    """The function from the keys of a file to the names of a model in it; None if there is none.

    See `base.clean_names`.
    """
    if "keys" not in options:
        return None
    description = parse(options["keys"])
    return description.base and partial(clean_names, description, description.base)


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a file; a target is what `{target}` stands for, with `.weight`.

    Raises:
        FormatError: no key fits the patterns, or one fits none or two; or a module lacks a factor.
        OptionError: a scale is given, and the alpha says it too.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: there are factors that are not floats.
    """
    said = stated(bundle.metadata, options)
    description = said.description
    modules, others = _sorted(bundle, description)
    way = description.transposed or transposed_parts(
        modules, _weights(description, modules, others)
    )
    said = replace(said, description=description.stored(way))
    adapter = adapter_of(bundle, "described", _oriented(modules, way), said.scaled)
    assert adapter.filed is not None
    filed = replace(
        adapter.filed,
        metadata={**without_strength(bundle.metadata), **said.entries},
        settings={"keys": str(said.description).replace("\n", " ")},
        passengers=others,
    )
    return replace(
        adapter,
        inert=dict.fromkeys(others, _OF_MODEL),
        notes=(*_guess(way - description.transposed), *adapter.notes),
        filed=filed,
    )


def _sorted(bundle: Bundle, description: Description) -> tuple[Modules, Mapping[str, Source]]:
    """The tensors of each module by their parts, and the tensors of the model beside them."""
    modules: dict[str, dict[str, Source]] = {}
    others = {}
    for key, source in bundle.tensors.items():
        if (found := description.split(key)) is None:
            others[key] = source
        else:
            modules.setdefault(found[0], {})[found[1]] = source
    if not modules:
        raise FormatError(
            f"{bundle.where}: no key fits {description.listed}, and it has "
            f"{listing(bundle.tensors)}"
        )
    if others and description.base is None:
        raise FormatError(
            f"{bundle.where}: {shorten(next(iter(others)))}: fits none of {description.listed}",
            tensor=next(iter(others)),
            hint="base={target}.layer, or how it is spelled, is for files that hold the model too",
        )
    for target, parts in modules.items():
        needed = (description.patterns[p].key(target) for p in ("up", "down") if p not in parts)
        if (missing := next(needed, None)) is not None:
            stored = listing(source.keys[0] for source in parts.values())
            raise FormatError(
                f"{bundle.where}: has {stored} and no {shorten(missing)}", tensor=missing
            )
    return modules, others


def _weights(
    description: Description, modules: Modules, others: Mapping[str, Source]
) -> Mapping[str, Source]:
    """The weights that the modules change, as far as they are in the file."""
    if description.base is None:
        return {}
    keys = {target: weight_of(description.base, target, others) for target in modules}
    return {target: others[key] for target, key in keys.items() if key is not None}


def _oriented(modules: Modules, way: frozenset[str]) -> Modules:
    """The tensors by the names that parts have in the code, each as (out, rank) or (rank, in)."""
    return {
        target: {
            PARTS[part]: transposed(source) if part in way and len(source.shape) == 2 else source
            for part, source in parts.items()
        }
        for target, parts in modules.items()
    }


def _guess(transposed: frozenset[str]) -> Iterator[Note]:
    if transposed:
        parts = listing(sorted(transposed))
        yield Note("info", f"stored transposed, as their shapes show: {parts}")
