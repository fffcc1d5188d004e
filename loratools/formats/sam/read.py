"""Reads adapters of vision transformers that store factors by the position of their layer.

The trainers go through the blocks in their order, and adapt the query and then the value of each:
`w_a_000` and `w_b_000` are `down` and `up` of the query of block 0, `w_a_001` of its value. Which
blocks were adapted is not stored, but all are unless somebody chose some: so a file with as many
pairs as a model of that width has queries and values is for all of its blocks.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from loratools.adapter import Adapter
from loratools.errors import (
    FormatError,
    ShapeMismatchError,
    UnsupportedError,
    counted,
    listing,
    shorten,
)
from loratools.formats import Sureness
from loratools.formats._modules.reading import adapter_of
from loratools.io.bundle import Bundle
from loratools.io.computed import joined
from loratools.io.source import Source
from loratools.parts import Replacement

if TYPE_CHECKING:
    from torch import Tensor

#: A position is spelled in one way only, so that two keys are never one tensor.
_KEY = re.compile(r"w_(a|b)_([0-9]{3}|[1-9][0-9]{3,8})")
_HEAD = re.compile(r"fc_\d+in_\d+out")
#: Weights of SAM that SAMed trains and stores whole.
_WHOLE = ("prompt_encoder.", "mask_decoder.")
_PARTS = {"a": "lora_down.weight", "b": "lora_up.weight"}
#: The number of blocks of vision transformers by their widths: SAM's (from 768 on), DeiT's tiny and
#: small ones, and ViT-g and ViT-G.
_BLOCKS = {192: 12, 384: 12, 768: 12, 1024: 24, 1280: 32, 1408: 40, 1664: 48}
_LOST_BIAS = "the weight of a classifier's head, which LoRA-ViT stores without its bias"

_Pairs = Mapping[int, Mapping[str, Source]]


def claim(bundle: Bundle) -> Sureness:
    """How sure the dialect is: only its keys are numbered `w_a` and `w_b`."""
    return Sureness.KEYS if any(map(_KEY.fullmatch, bundle.tensors)) else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in a file; a target is `blocks.N.attn.qkv.weight`, the fused weight of a block.

    Raises:
        FormatError: a factor is missing, or a key is unknown.
        ShapeMismatchError: the factors of a block do not fit each other.
        UnsupportedError: which blocks the factors belong to cannot be known.
    """
    pairs: dict[int, dict[str, Source]] = {}
    heads, whole = {}, {}
    for key, source in bundle.tensors.items():
        if found := _KEY.fullmatch(key):
            pairs.setdefault(int(found[2]), {})[_PARTS[found[1]]] = source
        elif key.startswith(_WHOLE):
            whole[key] = Replacement(source, is_trained=True)
        elif _HEAD.fullmatch(key):
            heads[key] = _LOST_BIAS
        else:
            raise FormatError(
                f"{bundle.where}: {shorten(key)}: an unknown key: expected factors of queries and "
                f"values, such as w_a_000 and w_b_000",
                tensor=key,
            )
    width = _checked_width(bundle.where, pairs)
    blocks = _separate(pairs) if options["qkv"] == "separate" else _fused(pairs, width)
    adapter = adapter_of(bundle, "sam", dict(blocks))
    return replace(adapter, inert=heads, replaced=whole)


def _checked_width(where: str, pairs: _Pairs) -> int:
    """The width of the model, after a check that all of its blocks have their four factors.

    Raises:
        FormatError: a factor is missing.
        ShapeMismatchError: the factors are not those of one width.
        UnsupportedError: there are not as many blocks as a model of this width has.
    """
    for position in range(max(pairs) + 1):
        parts = pairs.get(position, {})
        if missing := [end for end, part in _PARTS.items() if part not in parts]:
            raise FormatError(
                f"{where}: has no {listing(f'w_{e}_{position:03d}' for e in missing)}"
            )
    width = (*pairs[0][_PARTS["b"]].shape, 0)[0]
    for position, parts in pairs.items():
        down, up = parts[_PARTS["a"]], parts[_PARTS["b"]]
        if up.shape != (width, *down.shape[:1]) or down.shape[1:] != (width,) or not width:
            raise ShapeMismatchError(
                f"{where}: w_a_{position:03d} {list(down.shape)} and w_b_{position:03d} "
                f"{list(up.shape)} do not fit: expected (rank, {width}) and ({width}, rank)"
            )
        if (dtypes := {down.dtype, up.dtype}) != {pairs[0][_PARTS["a"]].dtype}:
            raise FormatError(
                f"{where}: w_a_{position:03d} and w_b_{position:03d} are "
                f"{listing(sorted(dtypes))}, others {pairs[0][_PARTS['a']].dtype}, and factors "
                f"of one weight have one dtype"
            )
    wanted = _BLOCKS.get(width)
    if len(pairs) != 2 * (wanted or 0):
        known = f"of this width have {wanted} blocks" if wanted else "of this width are not known"
        raise UnsupportedError(
            f"{where}: {counted(len(pairs), 'pair')} of factors for a model of width {width}, and "
            f"the blocks that they belong to are not stored, only their order, and models {known}",
            hint="only the trainer itself can merge it, told the same blocks",
        )
    return width


def _separate(pairs: _Pairs) -> Iterator[tuple[str, Mapping[str, Source]]]:
    for position in range(len(pairs)):
        block, is_value = divmod(position, 2)
        yield f"transformer.blocks.{block}.attn.proj_{'qv'[is_value]}", pairs[position]


def _fused(pairs: _Pairs, width: int) -> Iterator[tuple[str, Mapping[str, Source]]]:
    """Query and value of each block as one update of the fused weight: query, key, value."""
    for block in range(len(pairs) // 2):
        query, value = pairs[2 * block], pairs[2 * block + 1]
        down, up = ((query[part], value[part]) for part in _PARTS.values())
        rank = sum(source.shape[0] for source in down)
        yield (
            f"blocks.{block}.attn.qkv",
            {
                _PARTS["a"]: joined(down, (rank, width), _stacked),
                _PARTS["b"]: joined(up, (3 * width, rank), partial(_spread, width=width)),
            },
        )


def _stacked(query: "Tensor", value: "Tensor") -> "Tensor":
    import torch

    return torch.cat([query, value])


def _spread(query: "Tensor", value: "Tensor", width: int) -> "Tensor":
    """`up` of the fused weight: the rows of the key, in the middle, are zero."""
    up = query.new_zeros(3 * width, query.shape[1] + value.shape[1])
    up[:width, : query.shape[1]] = query
    up[2 * width :, query.shape[1] :] = value
    return up
