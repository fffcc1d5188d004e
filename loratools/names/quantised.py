"""Recognises quantised weights, by names, dtypes or config, and says what to do instead."""

import re
from collections.abc import Mapping
from typing import Any

from loratools.io.dtypes import PACKED_FLOATS

_REMEDY = "merge into the original float weights, then quantise the result"
_MARKS = (
    (r"\.weight\.(absmax|quant_map|nested_absmax|quant_state\.)|\.SCB$", "bitsandbytes"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"_blocks$", "MXFP4"),
    (r"\.(weight_scale_inv|weight_scale|weight_packed)$", "fp8 or packed with scales"),
)


def quantisation(
    tensors: Mapping[str, str],
    config: Mapping[str, Any] | None,
    *,
    what: str = "the base",
    remedy: str = _REMEDY,
) -> str | None:
    """Why weights with these names and dtypes cannot be computed with; None if they can.

    `tensors` maps names to dtypes.
    """
    method = _declared(config)
    if method is not None:
        return f"{what} is quantised ({method}, says its config.json): {remedy}"
    for name, dtype in tensors.items():
        if dtype in PACKED_FLOATS:
            return f"{what} is quantised ({name} is {dtype}): {remedy}"
        for pattern, mark in _MARKS:
            if re.search(pattern, name):
                return f"{what} is quantised ({mark}: it has {name}): {remedy}"
    return None


def _declared(config: Mapping[str, Any] | None) -> str | None:
    fields = (config or {}).get("quantization_config")
    if not isinstance(fields, dict):
        return None
    for key in ("quant_method", "quant_algo"):
        if isinstance(fields.get(key), str):
            return str(fields[key])
    return "quantization_config"
