"""What a config declares about quantisation, and what follows from it for plain weights.

`quantization_config` names a method, and neither the weights it was applied to nor whether it was
applied at all: some methods quantise weights that are stored plain while a program loads them. So
the stored tensors decide what is packed (`packed.py`), and the config only where they cannot.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from loratools.errors import UnsupportedError, shorten
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import NOT_CODES
from loratools.names.packed import Packed


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
    """Notes on plain weights of a base whose config declares a quantisation.

    `is_converted` is whether floats get another dtype.

    Raises:
        UnsupportedError: plain weights may not be those of the model, or floats may be scales.
    """
    method = declared_method(base.config)
    if method is None:
        return
    fields = (base.config or {})["quantization_config"]
    if fields.get("transform_config"):
        raise UnsupportedError(
            f"{base.where}: its config.json declares transforms of weights (transform_config), so "
            f"that weights in plain floats may be rotated, too; merge into the original weights"
        )
    names = (name for name, t in base.tensors.items() if t.dtype not in NOT_CODES)
    unknown = next((name for name in names if not packed.holds(name)), None)
    if is_converted and unknown is not None:
        raise UnsupportedError(
            f"{base.where}: {shorten(unknown)} is stored as {base.tensors[unknown].dtype}, and "
            f"config.json declares a quantisation ({method}); it may be codes in a format that is "
            f"not known, whose scales would change with --dtype"
        )
    if not packed.weights:
        yield (
            f"config.json declares a quantisation ({method}), and no weight is stored packed: "
            f"what is stored is merged, and quantised by programs that do so while loading"
        )
    elif method == "awq":
        yield (
            "AWQ scales some plain weights together with the packed ones: the result is right if "
            "the adapter was trained on this base, and may not be if it was on the original"
        )
