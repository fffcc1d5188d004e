"""Reads adapters in the format of kohya's sd-scripts."""

from collections.abc import Iterable, Iterator, Mapping

from loratools.adapter import Adapter, Filed, Note, Update
from loratools.deltas import Delta
from loratools.errors import listing
from loratools.formats import Sureness
from loratools.formats._modules.codecs import Codecs, all_codecs
from loratools.formats._modules.kinds import StoredModule
from loratools.formats.kohya.keys import has_kohyas, other_kind, sort_keys
from loratools.formats.kohya.metadata import Size, disagreements, has_kernel, provenance, settings
from loratools.io.bundle import Bundle
from loratools.io.source import Source


def claim(bundle: Bundle) -> Sureness:
    """How sure kohya's dialect is: its keys are flattened names with a known part.

    Files with parts of a kind that has no codec are only `POSSIBLE`: decoding refuses them by name.
    """
    codecs = all_codecs()
    if not has_kohyas(bundle.tensors, codecs):
        return Sureness.NO
    has_others = any(other_kind(key, codecs) for key in bundle.tensors)
    return Sureness.POSSIBLE if has_others else Sureness.KEYS


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a kohya file; a target is a module's flattened name with `.weight`.

    Raises:
        FormatError: a factor is missing, a key is unknown, or a tensor cannot be a factor.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: there are updates of another kind, or factors that are not floats.
    """
    codecs = all_codecs()
    deltas = {
        name: _delta(f"{bundle.where}: {name}", parts, codecs)
        for name, parts in sort_keys(bundle, codecs).items()
    }
    return Adapter(
        where=bundle.where,
        updates={f"{name}.weight": Update(delta) for name, delta in deltas.items()},
        replaced={},
        rows={},
        copies=(),
        inert={},
        provenance=provenance(bundle.metadata),
        notes=tuple(_notes(bundle, deltas, codecs)),
        companions=(),
        nbytes=bundle.nbytes,
        filed=Filed(
            dialect="kohya",
            metadata=bundle.metadata,
            settings=settings(bundle.metadata),
            order=tuple(bundle.tensors),
        ),
    )


def _delta(where: str, parts: Mapping[str, Source], codecs: Codecs) -> Delta:
    return codecs.kind_of(where, parts).decode(StoredModule(where, parts))


def _notes(bundle: Bundle, deltas: Mapping[str, Delta], codecs: Codecs) -> Iterator[Note]:
    if bundle.config is not None:
        yield Note("info", "a config does not belong to this format, and is not used")
    scalings = {name: scaling for name, delta in deltas.items() if (scaling := delta.scaling)}
    assumed = [name for name, scaling in scalings.items() if scaling.origin == "assumed"]
    if assumed:
        yield Note("info", f"no alpha, so the scaling is taken as 1: {listing(assumed, 3)}")
    zero = [name for name, scaling in scalings.items() if scaling.alpha == 0]
    if zero:
        yield Note(
            "problem",
            f"an alpha of 0, which switches the update off in some programs and means a scaling "
            f"of 1 in others; taken as 0 here: {listing(zero, 3)}",
        )
    yield from disagreements(bundle.metadata, [*_sizes(deltas.values(), codecs)])


def _sizes(deltas: Iterable[Delta], codecs: Codecs) -> Iterator[Size]:
    """The rank and the alpha of each module, to be compared with the metadata."""
    for delta in deltas:
        codec, scaling = codecs.taking(delta), delta.scaling
        if codec is not None and scaling is not None:
            dtype = scaling.source.dtype if scaling.source else "F64"
            yield Size(codec.rank(delta), scaling.alpha, dtype, has_kernel(delta.shape))
