"""LoRA and LoCon as kohya's sd-scripts file them: a single file, an alpha tensor a module."""

import math
from collections.abc import Iterator, Mapping, Sequence

from loratools.adapter import Adapter, Filed, Note, Update
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import FormatError, ShapeMismatchError, listing
from loratools.formats import Sureness
from loratools.formats._part_names import lycoris_kind
from loratools.formats.kohya.keys import ALPHA, DOWN, UP, is_kohya, sort_keys
from loratools.formats.kohya.metadata import Size, disagreements, provenance, settings
from loratools.io.bundle import Bundle
from loratools.io.scalar import SCALARS, read_scalar
from loratools.io.source import Source, flattened

#: A linear layer, and convolutions of one to three dimensions.
_DIMENSIONS = (2, 3, 4, 5)


def claim(bundle: Bundle) -> Sureness:
    """By flattened names with the parts of a LoRA, or of another kind that is then refused."""
    if not any(map(is_kohya, bundle.tensors)):
        return Sureness.NO
    return Sureness.POSSIBLE if any(map(lycoris_kind, bundle.tensors)) else Sureness.KEYS


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The canonical form of a kohya file; a target is a module's flattened name with `.weight`.

    Raises:
        FormatError: a pair is not whole, a key is unknown, or a tensor is no factor.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: there are updates of another kind, or factors that are no floats.
    """
    modules = sort_keys(bundle)
    loras = {name: _lora(f"{bundle.where}: {name}", parts) for name, parts in modules.items()}
    return Adapter(
        where=bundle.where,
        updates={f"{name}.weight": Update(lora) for name, lora in loras.items()},
        replaced={},
        rows={},
        copies=(),
        inert={},
        provenance=provenance(bundle.metadata),
        notes=tuple(_notes(bundle, loras)),
        companions=(),
        nbytes=bundle.nbytes,
        filed=Filed(
            dialect="kohya",
            metadata=bundle.metadata,
            settings=settings(bundle.metadata),
            order=tuple(bundle.tensors),
        ),
    )


def _lora(where: str, parts: Mapping[str, Source]) -> LoRA:
    missing = [part for part in (DOWN, UP) if part not in parts]
    if missing:
        has = listing(parts)
        raise FormatError(f"{where} has {has} and no {listing(missing)}: half an update")
    down, up = parts[DOWN], parts[UP]
    for part, source in ((DOWN, down), (UP, up)):
        _check_factor(f"{where}.{part}", source)
    if len(down.shape) != len(up.shape) or down.shape[0] != up.shape[1] or set(up.shape[2:]) - {1}:
        raise ShapeMismatchError(
            f"{where}: lora_down {list(down.shape)} and lora_up {list(up.shape)} do not fit; "
            f"expected (rank, in, kernel...) and (out, rank, 1...)"
        )
    scaling = _scaling(f"{where}.{ALPHA}", parts.get(ALPHA), rank=down.shape[0])
    return LoRA(flattened(up), flattened(down), scaling, (up.shape[0], *down.shape[1:]))


def _check_factor(where: str, source: Source) -> None:
    if len(source.shape) not in _DIMENSIONS or 0 in source.shape:
        raise FormatError(
            f"{where}: {list(source.shape)} is neither a matrix nor a convolution's kernel"
        )


def _scaling(where: str, source: Source | None, *, rank: int) -> Scaling:
    if source is None:
        return Scaling(alpha=rank, rank=rank, rule="rank", origin="assumed")
    if source.shape not in ((), (1,)) or source.dtype not in SCALARS:
        raise FormatError(f"{where}: {source.dtype} {list(source.shape)} is not a single number")
    alpha = read_scalar(source)
    if not math.isfinite(alpha):
        raise FormatError(f"{where}: is {alpha}")
    return Scaling(alpha=alpha, rank=rank, rule="rank", origin="tensor", source=source)


def _notes(bundle: Bundle, loras: Mapping[str, LoRA]) -> Iterator[Note]:
    if bundle.config is not None:
        yield Note("info", "a config does not belong to this format, and is not used")
    assumed = [name for name, lora in loras.items() if lora.scaling.origin == "assumed"]
    if assumed:
        yield Note("info", f"no alpha, so the scaling is taken as 1: {listing(assumed, 3)}")
    zero = [name for name, lora in loras.items() if lora.scaling.alpha == 0]
    if zero:
        yield Note(
            "problem",
            f"an alpha of 0, which switches the update off in some programs and means a scaling "
            f"of 1 in others; taken as 0 here: {listing(zero, 3)}",
        )
    sizes: Sequence[Size] = [Size.of(lora) for lora in loras.values()]
    yield from disagreements(bundle.metadata, sizes)
