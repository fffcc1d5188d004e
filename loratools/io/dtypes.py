"""The dtypes of safetensors: names and widths, without torch."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: The width of one element in bits. Those below 8 are packed, so a tensor must fill whole bytes.
BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}

#: The dtypes of weights that are computed with; tensors of others are carried along as bytes.
FLOATS = ("F16", "BF16", "F32", "F64")

#: 8-bit floats whose values are all exact in float16. F8_E8M0 is not one of them: it is a scale.
_FLOATS_OF_8_BITS = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")

#: The dtypes that an update's tensors may be stored in.
FACTORS = (*FLOATS, *_FLOATS_OF_8_BITS)

#: The dtypes of weights in 8 bits and fewer, which mean nothing without their scales if they have
#: some.
PACKED_FLOATS = tuple(name for name in BITS if name.startswith(("F4", "F6_", "F8")))

#: The dtypes of tensors that are no codes of quantised weights: numbers, indices, masks.
NOT_CODES = frozenset((*FLOATS, "I64", "BOOL", "C64"))

_TORCH_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_FROM_TORCH_NAMES = {torch_name: name for name, torch_name in _TORCH_NAMES.items()}


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The size of a tensor in bytes; dtypes of less than a byte are packed without padding."""
    return BITS[dtype] * math.prod(shape) // 8


def computed(dtype: str) -> str:
    """The dtype of a result that is computed from an input stored in `dtype`.

    8 bits are too few for a result: it gets float16, the narrowest that holds the input exactly.
    """
    return "F16" if dtype in _FLOATS_OF_8_BITS else dtype


def torch_name(dtype: str) -> str:
    """The name of a safetensors dtype in torch and in `config.json`: `bfloat16` for `BF16`."""
    return _TORCH_NAMES.get(dtype, dtype)


def from_torch_name(name: str) -> str:
    """The inverse of `torch_name`.

    Raises:
        KeyError: safetensors has no such dtype.
    """
    return _FROM_TORCH_NAMES[name]


def to_torch(dtype: str) -> "torch.dtype":
    """The torch dtype of a safetensors dtype.

    Raises:
        KeyError: torch cannot compute with it (F4, F6 and F8_E8M0).
    """
    import torch

    found: torch.dtype = getattr(torch, _TORCH_NAMES[dtype])
    return found
