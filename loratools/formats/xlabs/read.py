"""Reads adapters for FLUX.1 that name the processor of an attention instead of its layers.

A processor adds to the outputs of the layers that it calls, so its pairs of factors are updates of
these layers' weights, under the names of FLUX.1's original checkpoint:

| key | weight |
|---|---|
| `double_blocks.N.processor.qkv_lora1`, `….proj_lora1` | `double_blocks.N.img_attn.qkv`, `….proj` |
| `double_blocks.N.processor.qkv_lora2`, `….proj_lora2` | `double_blocks.N.txt_attn.qkv`, `….proj` |
| `single_blocks.N.processor.qkv_lora` | the first rows of `single_blocks.N.linear1` |
| `single_blocks.N.processor.proj_lora` | `single_blocks.N.linear2` |
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.errors import FormatError, ShapeMismatchError, shorten
from loratools.formats import Sureness
from loratools.formats._modules.reading import adapter_of, add_part
from loratools.io.bundle import Bundle
from loratools.io.computed import rearranged
from loratools.io.source import Source

if TYPE_CHECKING:
    from torch import Tensor

_KEY = re.compile(
    r"(?:diffusion_model\.)?"
    r"(?:(?P<double>double_blocks\.\d+)\.processor\.(?P<layer>qkv|proj)_lora(?P<stream>[12])"
    r"|(?P<single>single_blocks\.\d+)\.processor\.(?P<part>qkv|proj)_lora)"
    r"\.(?P<end>down|up)\.weight"
)
_MARK = ".processor."
_UP = "lora_up.weight"
_STREAMS = {"1": "img_attn", "2": "txt_attn"}
_SINGLE = {"qkv": "linear1", "proj": "linear2"}
#: `linear1` computes the queries, keys and values, and four times their width for the perceptron.
_WIDTHS_OF_LINEAR1 = 3 + 4


def claim(bundle: Bundle) -> Sureness:
    """How sure XLabs' dialect is: only its keys are those of processors with numbered streams."""
    own = (key for key in bundle.tensors if _MARK in key)
    return Sureness.KEYS if any(map(_KEY.fullmatch, own)) else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a file; a target is the weight of a layer in FLUX.1's original checkpoint.

    Raises:
        FormatError: a factor is missing, a key is unknown, or a tensor cannot be a factor.
        ShapeMismatchError: the factors of a layer do not fit each other.
    """
    modules: dict[str, dict[str, Source]] = {}
    for key, source in bundle.tensors.items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise FormatError(
                f"{bundle.where}: {shorten(key)}: an unknown key: expected the factors of an "
                f"attention's processor, such as double_blocks.0.processor.qkv_lora1.down.weight",
                tensor=key,
            )
        parts = modules.setdefault(_module(found), {})
        add_part(bundle.where, parts, f"lora_{found['end']}.weight", key, source)
    for name, parts in modules.items():
        if name.endswith(".linear1") and _UP in parts:
            parts[_UP] = _rows_of_linear1(parts[_UP])
    return adapter_of(bundle, "xlabs", modules)


def _module(key: re.Match[str]) -> str:
    if key["double"]:
        return f"{key['double']}.{_STREAMS[key['stream']]}.{key['layer']}"
    return f"{key['single']}.{_SINGLE[key['part']]}"


def _rows_of_linear1(up: Source) -> Source:
    """The `up` of queries, keys and values, with rows of zeros for the rest of `linear1`.

    Raises:
        ShapeMismatchError: it does not have three groups of rows.
    """
    if len(up.shape) != 2 or up.shape[0] % 3:
        raise ShapeMismatchError(
            f"{shorten(up.keys[0])}: {list(up.shape)} does not fit queries, keys and values of one "
            f"width: expected (3 * width, rank)",
            tensor=up.keys[0],
        )
    rows = up.shape[0] // 3 * _WIDTHS_OF_LINEAR1
    return rearranged(up, (rows, up.shape[1]), partial(_padded, rows=rows))


def _padded(up: "Tensor", rows: int) -> "Tensor":
    import torch

    return torch.cat([up, up.new_zeros(rows - up.shape[0], up.shape[1])])
