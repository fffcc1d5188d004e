"""What a config declares about quantisation, and what follows from it for plain weights.

`quantization_config` names a method, and neither the weights it was applied to nor whether it was
applied at all: some methods quantise weights that are stored plain while a program loads them. So
the stored tensors decide what is packed (`packed.py`), and the config only where they cannot.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from loratools.errors import UnsupportedError, shorten
from loratools.io.checkpoint import Checkpoint, Component
from loratools.io.dtypes import NOT_CODES
from loratools.io.source import Stored
from loratools.names.packed import Packed
from loratools.typed import valued


def declared_method(config: Mapping[str, Any] | None) -> str | None:
    """The method of quantisation that a config declares; None if it declares none."""
    fields = (config or {}).get("quantization_config")
    if not isinstance(fields, dict):
        return None
    for key in ("quant_method", "quant_algo"):
        if isinstance(fields.get(key), str):
            return str(fields[key])
    return "quantization_config"


def declared_notes(base: Checkpoint, packed: Packed, *, is_converted: bool) -> Iterator[str]:
    """Notes on the plain weights of a base whose config declares a quantisation.

    `is_converted` is whether floats get another dtype.

    Raises:
        UnsupportedError: plain weights may not be those of the model, or floats may be scales.
    """
    for component in base.components:
        method = declared_method(component.config)
        if method is not None:
            where = f"{base.where}/{component.folder}" if component.folder else base.where
            yield from _notes(component, method, packed, where, is_converted=is_converted)


def _notes(
    component: Component, method: str, packed: Packed, where: str, *, is_converted: bool
) -> Iterator[str]:
    fields = (component.config or {})["quantization_config"]
    if fields.get("transform_config"):
        raise UnsupportedError(
            f"{component.config_file}: quantization_config declares transforms of weights "
            f"(transform_config), so that weights in plain floats may be rotated, too",
            file=component.config_file,
            hint="merge into the original weights",
        )
    tensors = [tensor for shard in component.shards for tensor in shard.tensors]
    unknown = next((t for t in tensors if _may_be_codes(t) and not packed.holds(t.name)), None)
    if is_converted and unknown is not None:
        raise UnsupportedError(
            f"{where}: {shorten(unknown.name)} is stored as {unknown.dtype}, and config.json "
            f"declares a quantisation ({method}): it may be codes in a format that is not known, "
            f"whose scales would change with {valued('dtype')}",
            tensor=unknown.name,
        )
    if not any(packed.holds(tensor.name) for tensor in tensors):
        yield (
            f"{where}: config.json declares a quantisation ({method}), and no weight is stored "
            f"packed: what is stored is merged, and quantised by programs that do so while loading"
        )
    elif method == "awq":
        yield (
            f"{where}: AWQ scales some plain weights together with the packed ones: the result is "
            f"right if the adapter was trained on this base, and may not be if it was on the "
            f"original"
        )


def _may_be_codes(tensor: Stored) -> bool:
    return tensor.dtype not in NOT_CODES
