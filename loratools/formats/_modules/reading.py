"""Makes an adapter of a single file whose keys are the name of a module and the name of a part."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.errors import FormatError, UnsupportedError, shorten
from loratools.formats._modules.codecs import Codecs, all_codecs
from loratools.formats._modules.metadata import (
    Size,
    disagreements,
    has_kernel,
    provenance,
    settings,
)
from loratools.formats._modules.spelling import Spelling, check_one_adapter, without_adapter
from loratools.formats._part_names import lycoris_kind
from loratools.io.bundle import Bundle
from loratools.io.source import Source
from loratools.parts import Filed, Note, Update

Modules = Mapping[str, Mapping[str, Source]]


def stored_modules(
    bundle: Bundle, spelling: Spelling, is_name: Callable[[str], bool], names: str
) -> Modules:
    """The tensors of each module by the names of their parts, in file order.

    `is_name` is whether the dialect has such names of modules, and `names` describes them.

    Raises:
        UnsupportedError: a tensor belongs to a kind of update that cannot be read.
        FormatError: a key is not that of any known part, two keys are the same part, or there are
            several adapters.
    """
    check_one_adapter(bundle.tensors, bundle.where)
    modules: dict[str, dict[str, Source]] = {}
    unknown = []
    for key, source in bundle.tensors.items():
        split = spelling.split(key)
        if split is None or not is_name(split.module):
            unknown.append(key)
        else:
            add_part(bundle.where, modules.setdefault(split.module, {}), split.part, key, source)
    _refuse(bundle.where, unknown, spelling, names)
    return modules


def add_part(where: str, parts: dict[str, Source], part: str, key: str, source: Source) -> None:
    """Add a tensor to the parts of its module.

    Raises:
        FormatError: the module has this part, under another key.
    """
    if part in parts:
        raise FormatError(
            f"{where}: {shorten(key)}: means the same tensor as {shorten(parts[part].keys[0])}",
            tensor=key,
            hint="remove one of them",
        )
    parts[part] = source


def _refuse(where: str, keys: Iterable[str], spelling: Spelling, names: str) -> None:
    for key in keys:
        if (kind := other_kind(key, spelling)) is not None:
            raise UnsupportedError(
                f"{where}: {shorten(key)}: {kind}, which cannot be read yet", tensor=key
            )
    for key in keys:
        parts = ", ".join(dict.fromkeys(spelling.parts.values()))
        raise FormatError(
            f"{where}: {shorten(key)}: an unknown key: expected {parts} after {names}", tensor=key
        )


def other_kind(key: str, spelling: Spelling) -> str | None:
    """The kind of update that a key belongs to, if it is one without a codec; else None."""
    return None if spelling.split(key) else lycoris_kind(key)


def _as_decoded(delta: Delta) -> Delta:
    return delta


def adapter_of(
    bundle: Bundle,
    dialect: str,
    modules: Modules,
    scaled: Callable[[Delta], Delta] = _as_decoded,
) -> Adapter:
    """The adapter that a file's modules form; a target is a module's name with `.weight`.

    `scaled` gives an update the scaling that something else than its module says.

    Raises:
        FormatError: a factor is missing, or a tensor cannot be a factor.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: there are factors that are not floats.
    """
    codecs = all_codecs()
    decoded = codecs.decoded(bundle.where, modules)
    deltas = {name: scaled(delta) for name, delta in decoded.deltas.items()}
    return Adapter(
        where=bundle.where,
        updates={f"{name}.weight": Update(delta) for name, delta in deltas.items()},
        replaced={},
        rows={},
        copies=(),
        inert={},
        provenance=provenance(bundle.metadata),
        notes=(*decoded.notes, *_notes(bundle, deltas, codecs)),
        companions=(),
        nbytes=bundle.nbytes,
        filed=Filed(
            dialect=dialect,
            metadata=bundle.metadata,
            settings=settings(bundle.metadata),
            # Readers know parts without the name of an adapter, and so they are written.
            order=tuple(map(without_adapter, bundle.tensors)),
        ),
    )


def _notes(bundle: Bundle, deltas: Mapping[str, Delta], codecs: Codecs) -> Iterator[Note]:
    if bundle.config is not None:
        yield Note("info", "a config does not belong to this format, and is not used")
    yield from disagreements(bundle.metadata, _sizes(deltas.values(), codecs))


def _sizes(deltas: Iterable[Delta], codecs: Codecs) -> Iterator[Size]:
    """The ranks and the alphas of modules, to be compared with the metadata."""
    for delta in deltas:
        codec, scaling = codecs.taking(delta), delta.scaling
        if codec is not None and scaling is not None:
            dtype = scaling.source.dtype if scaling.source else "F64"
            yield Size(codec.rank(delta), scaling.alpha, dtype, has_kernel(delta.shape))
