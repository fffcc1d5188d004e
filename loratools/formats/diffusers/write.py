"""Writes adapters in diffusers' format: PEFT's parts in each component, and the metadata."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, final

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError, shorten
from loratools.formats._file_order import in_file_order
from loratools.formats._peft.codecs import codecs_of
from loratools.formats._peft.stored import stored
from loratools.formats.diffusers.keys import ENDS, component_of, key_of
from loratools.formats.diffusers.metadata import (
    as_config,
    of_component,
    read_metadata,
    with_fields,
    written_fields,
)
from loratools.io.bundle import Bundle
from loratools.io.dtypes import nbytes
from loratools.io.source import Source
from loratools.parts import Filed, Provenance, Update

#: The parts of updates that PEFT stores and diffusers does not.
_OTHER_PARTS = ("lora_embedding_A", "lora_embedding_B")
#: A module of text encoders that transformers 5 has left out of its CLIP models.
_LEFT_OUT = "text_model."


def encode(adapter: Adapter) -> Bundle:
    """The file of an adapter, whose metadata is true of its tensors.

    A file that was read without metadata gets none as long as every scaling is 1, because diffusers
    then finds out all it needs from the tensors.

    Raises:
        UnsupportedError: the format cannot store something in the adapter.
    """
    _refuse_others(adapter)
    filed = adapter.filed or Filed("diffusers")
    read = read_metadata(filed.metadata, adapter.where)
    tensors: dict[str, Source] = {}
    fields: dict[str, Any] = {}
    for part in _components(adapter):
        own = of_component(read or {}, part.name)
        found = stored(part.as_peft(own))
        tensors |= {key_of(part.name, name): source for name, source in found.tensors.items()}
        fields |= written_fields(part.name, own, _without_left_out(found.config, own))
    metadata = dict(filed.metadata or {"format": "pt"})
    if adapter.filed is None or read is not None or _is_scaled(adapter):
        metadata = with_fields(metadata, fields, adapter.where)
    return Bundle(
        where=adapter.where,
        tensors=in_file_order(filed.order, tensors),
        metadata=metadata,
        config=None,
        companions=adapter.companions,
        nbytes=sum(nbytes(source.dtype, source.shape) for source in tensors.values()),
    )


@final
class _Component(NamedTuple):
    """The updates of one component, by their targets within it."""

    where: str
    name: str
    updates: Mapping[str, Update]

    def as_peft(self, fields: Mapping[str, Any]) -> Adapter:
        """The component as an adapter of PEFT, with the config that was read for it, if any."""
        return Adapter(
            where=f"{self.where}: {self.name}" if self.name else self.where,
            updates=self.updates,
            replaced={},
            rows={},
            copies=(),
            inert={},
            provenance=Provenance(),
            notes=(),
            companions=(),
            nbytes=0,
            # No list of modules is none of those that are written, so that they are listed.
            filed=Filed("peft", as_config({"target_modules": [], **fields})) if fields else None,
        )


def _components(adapter: Adapter) -> Iterator[_Component]:
    """The components of an adapter, in the order of their first updates."""
    found: dict[str, dict[str, Update]] = {}
    for target, update in adapter.updates.items():
        name = component_of(target) or ""
        own = target.removeprefix(f"{name}.") if name else target
        found.setdefault(name, {})[own] = update
    for name, updates in found.items():
        yield _Component(adapter.where, name, updates)


def _refuse_others(adapter: Adapter) -> None:
    """Refuse by its target whatever diffusers does not load.

    Raises:
        UnsupportedError: there is such an update or tensor.
    """
    where = adapter.where
    for group, what in ((adapter.replaced, "a tensor stored whole"), (adapter.rows, "single rows")):
        for target in group:
            raise UnsupportedError(
                f"{where}: {shorten(target)}: diffusers has no place for {what}", tensor=target
            )
    codecs = codecs_of("LORA")
    known = {*ENDS, *_OTHER_PARTS}
    takers = [c for c in (*codecs.kinds, *codecs.beside) if known.issuperset(c.roles)]
    # A file of a single model has no components, and is written again as it is.
    is_single = adapter.filed is not None and not any(map(component_of, adapter.updates))
    for target, update in adapter.updates.items():
        name = f"{where}: {shorten(target)}"
        if component_of(target) is None and not is_single:
            raise UnsupportedError(
                f"{name}: does not begin with a component of a pipeline, such as unet, transformer "
                f"or text_encoder",
                tensor=target,
            )
        if update.is_embedding or update.fan_in_fan_out:
            raise UnsupportedError(
                f"{name}: diffusers has no place for an embedding, or for a weight stored as "
                f"(in, out)",
                tensor=target,
            )
        if not any(codec.takes(update.delta) for codec in takers):
            raise UnsupportedError(
                f"{name}: diffusers has no place for a {update.delta.kind}", tensor=target
            )


def _is_scaled(adapter: Adapter) -> bool:
    """Whether an update has another scaling than the 1 that diffusers takes without metadata."""
    scalings = (update.delta.scaling for update in adapter.updates.values())
    return any(scaling is not None and scaling.value != 1 for scaling in scalings)


def _without_left_out(config: Mapping[str, Any], read: Mapping[str, Any]) -> dict[str, Any]:
    """The config with new names of modules that fit a text encoder with and without `text_model`.

    PEFT takes a name in a config for a suffix of a module's name, so that the rest is enough.
    """
    targets = config.get("target_modules")
    if targets == read.get("target_modules") or not isinstance(targets, list):
        return dict(config)
    return {**config, "target_modules": [name.removeprefix(_LEFT_OUT) for name in targets]}
