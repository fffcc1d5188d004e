"""The signs by which packed weights are known: names, dtypes, and ComfyUI's notes in headers.

Formats differ in how they name codes and scales, and agree in where they put them: beside or inside
the weight. So one telling name shows that a weight is packed, and everything else that its module
has belongs to it, but for a bias in floats.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple, final

from loratools.io.dtypes import FLOATS, NOT_CODES, PACKED_FLOATS

#: The names of codes in the module of a packed weight, with the format. Plain floats of such a name
#: are none: there are models with a parameter `q_weight`.
_CODES_BESIDE = {
    "comfy_quant": "ComfyUI",
    "weight_packed": "compressed-tensors",
    "bitmask": "compressed-tensors",
    "_weight_qdata": "torchao",
    "g_idx": "GPTQ",
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "W_q": "HQQ",
    "Qidxs": "QuIP#",
    "q_weight": "EXL2",
    "trellis": "EXL3",
    "dense_weights": "SpQR",
}
#: The names of scales beside a weight or its codes. An empty format is that of the codes' dtype.
_SCALES_BESIDE = {
    "scale_weight": "ComfyUI",
    "wscales": "SVDQuant",
    "weight_scale_2": "NVFP4",
    "weight_global_scale": "NVFP4",
    "weight_scales": "EETQ",
    "SCB": "bitsandbytes",
    "tables2": "HIGGS",
    "weight_scale_inv": "",
    "weight_scale": "",
    "weight_zero_point": "",
    "qscale_weight": "",
    "embedding_scale": "",
}
_BESIDE_SCALES = ("weight", "weight_packed", "qweight", "embedding_quantized")
#: Names that are telling only beside another one.
_TOGETHER = {
    "codebooks": ("codes", "AQLM"),
    "indices": ("centroids.weight", "VPTQ"),
    "scale": ("W_q", "HQQ"),
}
#: Names inside a weight: `q_proj.weight.absmax`.
_IN_WEIGHT = {
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "nested_absmax": "bitsandbytes",
    "nested_quant_map": "bitsandbytes",
    "_data": "quanto",
    "_scale": "quanto",
    "bitmask": "compressed-tensors",
}
_STATE = ".quant_state"
#: What is added to the name of any parameter, such as one of all experts, for its codes.
_CODES = {"_blocks": "MXFP4", "_packed": "compressed-tensors", "_qdata": "torchao"}
#: What is added to it for its scales, the longest first.
_SCALES = ("_weight_scale", "_scale_inv", "_scale")
_ENDINGS = (*_CODES, *_SCALES)
#: ComfyUI's older mark of a whole file, of 8-bit floats, which is no weight.
_MARK = "scaled_fp8"
#: A root of names that ComfyUI's notes may leave out.
_ROOT = "model.diffusion_model."
#: Where a weight has the signs of several formats, the first of these names it.
_FORMATS = (
    *(format_ for format_ in _SCALES_BESIDE.values() if format_),
    *(*_CODES_BESIDE.values(), "quanto", "AQLM", "VPTQ", "MXFP4"),
)


@final
class Sign(NamedTuple):
    """A sign that a weight is packed. If there are several, the one of the least rank counts."""

    rank: int
    format: str


def signs(
    name: str, dtypes: Mapping[str, str], noted: Mapping[str, str]
) -> Iterator[tuple[str, Sign]]:
    """Yield the weights that the tensor with this name shows to be packed.

    `noted` has the formats of modules that a header lists as packed.
    """
    module, dot, leaf = name.rpartition(".")
    dtype = dtypes[name]
    if leaf == "weight":
        if noted and (found := noted.get(module) or noted.get(module.removeprefix(_ROOT))):
            yield name, Sign(0, f"ComfyUI {found}")
        if dtype not in NOT_CODES:
            yield name, _unnamed(dtype)
        return
    if sign := _beside(module + dot, leaf, dtypes):
        yield f"{module}{dot}weight", sign
    elif leaf in _IN_WEIGHT and module.endswith("weight"):
        yield module, _named(_IN_WEIGHT[leaf])
    elif module.endswith(_STATE):
        yield module.removesuffix(_STATE), _named("bitsandbytes")
    elif leaf.endswith(_ENDINGS) and (part := _part(module + dot, leaf, dtypes)):
        yield part
    elif dtype in PACKED_FLOATS and leaf != _MARK:
        yield name, _unnamed(dtype)


def _beside(path: str, leaf: str, dtypes: Mapping[str, str]) -> Sign | None:
    """What a tensor says of the weight beside it, both of names that begin with `path`."""
    if leaf in _CODES_BESIDE and dtypes[path + leaf] not in FLOATS:
        return _named(_CODES_BESIDE[leaf])
    if leaf in _SCALES_BESIDE and any(path + name in dtypes for name in _BESIDE_SCALES):
        return _named(_SCALES_BESIDE[leaf], dtypes.get(f"{path}weight"))
    if leaf in _TOGETHER and path + _TOGETHER[leaf][0] in dtypes:
        return _named(_TOGETHER[leaf][1])
    return None


def _part(path: str, leaf: str, dtypes: Mapping[str, str]) -> tuple[str, Sign] | None:
    """The packed parameter that a tensor is the codes or the scales of, by both of their names."""
    for ending, format_ in _CODES.items():
        if leaf.endswith(ending) and dtypes[path + leaf] not in NOT_CODES:
            return path + leaf.removesuffix(ending).removeprefix("_"), _named(format_)
    for ending in _SCALES:
        parameter = path + leaf.removesuffix(ending)
        if leaf.endswith(ending) and dtypes.get(parameter, "F32") not in NOT_CODES:
            return parameter, _named("", dtypes[parameter])
    return None


@cache
def _named(format_: str, dtype: str | None = None) -> Sign:
    """The sign of a format, or where it has no name, of codes with a dtype and scales."""
    if format_:
        return Sign(1 + _FORMATS.index(format_), format_)
    return Sign(len(_FORMATS) + 1, f"{dtype} with scales" if dtype else "with scales")


@cache
def _unnamed(dtype: str) -> Sign:
    """The sign of a dtype that is no plain float's."""
    return Sign(len(_FORMATS) + 2, dtype)
