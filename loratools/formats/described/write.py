"""Writes adapters with the keys that were described when they were read."""

from dataclasses import replace

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError, shorten
from loratools.formats._modules.writing import SingleFile
from loratools.formats.described.description import PARTS, Description
from loratools.formats.described.stated import Stated, stated, without_strength
from loratools.io.bundle import Bundle
from loratools.io.source import transposed
from loratools.parts import Update
from loratools.typed import of_format

_PART_OF = {name: part for part, name in PARTS.items()}


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter, with the description of its keys in the metadata.

    Strengths are in the alphas, also those that were only stated. Where the described keys have no
    alpha, what was stated stays, and a changed strength is in the `up` factors.

    Raises:
        UnsupportedError: the adapter was not read with described keys, or they have no place for
            something in it.
    """
    if adapter.filed is None:
        target = next(iter((*adapter.updates, *adapter.replaced, *adapter.rows)), "")
        raise UnsupportedError(
            f"{adapter.where}: {shorten(target)}: nothing says how its keys are to be spelled",
            tensor=target,
            hint=f"only an adapter that was read with {of_format('keys')} is written so",
        )
    said = stated(adapter.filed.metadata, {})
    description = said.description
    if "alpha" in description.patterns:
        metadata = without_strength(adapter.filed.metadata)
        adapter = replace(adapter, filed=replace(adapter.filed, metadata=metadata))
    else:
        updates = {target: _folded(update, said) for target, update in adapter.updates.items()}
        adapter = replace(adapter, updates=updates)

    def key(module: str, name: str) -> str:
        part = _PART_OF.get(name, name)
        if part == "alpha" and part not in description.patterns:
            return f"{module}.alpha"  # of no tensor: all strengths are folded
        if part not in description.patterns:
            raise UnsupportedError(f"{adapter.where}: {module}: no pattern says where {part} goes")
        return description.patterns[part].key(module)

    file = SingleFile("a file with these keys", lambda _: True, "the name of a module", key)
    return _as_stored(file.of(adapter), description)


def _folded(update: Update, said: Stated) -> Update:
    """An update whose strength beyond what is stated of all is in its `up`; no alpha is stored."""
    delta = update.delta
    lora = delta.low_rank
    if delta.scaling is None or lora is None:
        return update
    factor = delta.scaling.value / said.scaling(lora.rank).value
    unstored = Stated(said.description, None, None).scaling(lora.rank)
    return replace(update, delta=delta.with_scaling(unstored, factor))


def _as_stored(bundle: Bundle, description: Description) -> Bundle:
    """The bundle with those factors transposed that are stored so."""
    tensors = dict(bundle.tensors)
    for key, source in tensors.items():
        found = description.split(key)
        if found is not None and found[1] in description.transposed and len(source.shape) == 2:
            tensors[key] = transposed(source)
    return replace(bundle, tensors=tensors)
