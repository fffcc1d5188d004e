"""Reads adapters in diffusers' format, each component by its own fields in the metadata."""

from collections.abc import Iterator, Mapping, Sequence

from loratools.adapter import Adapter
from loratools.errors import listing, shorten
from loratools.formats import Sureness
from loratools.formats.diffusers.component import Component, decode_component
from loratools.formats.diffusers.keys import Parts, has_components, has_factors, sort_keys
from loratools.formats.diffusers.metadata import (
    KEY,
    Fields,
    components_in,
    given_fields,
    read_metadata,
    with_fields,
)
from loratools.io.bundle import Bundle, ConfigName, repair
from loratools.parts import Filed, Note, Provenance


def claim(bundle: Bundle) -> Sureness:
    """How sure diffusers' dialect is: its keys begin with a component, or its metadata is there."""
    is_single = KEY in bundle.metadata and has_factors(bundle.tensors)
    return Sureness.KEYS if is_single or has_components(bundle.tensors) else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a diffusers file; a target begins with its component, as keys do.

    Raises:
        FormatError: a key is unknown, a part of an update is missing, or the metadata is malformed.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: factors are not floats, or an update has no counterpart in a weight.
    """
    where, parts, alpha = bundle.where, sort_keys(bundle), options["alpha"]
    given = given_fields(bundle)
    metadata = bundle.metadata if given is None else with_fields(bundle.metadata, given, where)
    fields = read_metadata(metadata, where)
    stated = ConfigName(where, KEY, repair()) if given is None else bundle.config_name
    number = None if alpha == "auto" else float(alpha)
    components = [
        decode_component(name, modules, parts.alphas.get(name, {}), fields, stated, where, number)
        for name, modules in parts.modules.items()
    ]
    updates = {target: update for c in components for target, update in c.updates()}
    return Adapter(
        where=where,
        updates=updates,
        replaced={},
        rows={},
        copies=(),
        inert={key: reason for component in components for key, reason in component.inert()},
        provenance=_provenance(components),
        notes=(
            *_notes(bundle, parts, fields, is_given=given is not None),
            *(note for component in components for note in component.notes()),
        ),
        companions=bundle.companions,
        nbytes=bundle.nbytes,
        filed=Filed(
            dialect="diffusers",
            metadata=metadata,
            settings={name: value for c in components for name, value in c.settings()},
            order=tuple(parts.order),
        ),
    )


def _notes(
    bundle: Bundle, parts: Parts, fields: Fields | None, *, is_given: bool
) -> Iterator[Note]:
    """Notes on the file as a whole."""
    if bundle.config is not None and not is_given:
        yield Note("info", "a config does not belong to this format, and is not used")
    if parts.renamed:
        old, new = next(iter(parts.renamed.items()))
        yield Note(
            "info",
            f"keys in another spelling than that of today's diffusers ({len(parts.renamed)}), in "
            f"which they are written: {shorten(old)} as {shorten(new)}",
        )
    lost = [name for name in components_in(fields or {}) if name not in parts.modules]
    if lost:
        names = listing(name or "a single model" for name in lost)
        yield Note(
            "problem",
            f"the metadata has fields of {names}, of which no tensor is stored: what was trained "
            f"there is lost",
        )


def _provenance(components: Sequence[Component]) -> Provenance:
    """The origin that the metadata states, of the first component that has such a field."""

    def first(name: str) -> str | None:
        found = (component.config.text(name) for component in components)
        return next((text for text in found if text is not None), None)

    version = first("peft_version")
    return Provenance(
        base=first("base_model_name_or_path"),
        revision=first("revision"),
        trainer=f"peft {version}" if version else None,
    )
