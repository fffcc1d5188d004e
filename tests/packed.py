"""Packed weights as the formats store them, and bases that have them beside plain weights."""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loratools.io.dtypes import BITS
from loratools.io.writer import lay_out

#: Dtypes and shapes of tensors, by name.
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]

#: The module whose weight is packed, and one beside it whose weight is not.
LAYER = "model.layers.0"
PACKED, PLAIN = f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.o_proj"
EXPERTS = f"{LAYER}.mlp.experts"
ROWS, COLUMNS = 64, 32


@dataclass(frozen=True)
class Format:
    """How a format stores a weight: dtypes and shapes by the ends of names.

    `weight` is the weight's name, `said` the format's name in reports, and `notes` those that a
    header has on it.
    """

    said: str
    tensors: Tensors
    weight: str = f"{PACKED}.weight"
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def stored(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The stored tensors by name."""
        return {f"{LAYER}{end}": tensor for end, tensor in self.tensors.items()}


def of_q(**ends: tuple[str, tuple[int, ...]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors beside each other in the module of the weight; `__` in a name is a dot."""
    return {f".self_attn.q_proj.{end.replace('__', '.')}": value for end, value in ends.items()}


def of_experts(**ends: tuple[str, tuple[int, ...]]) -> Tensors:
    return {f".mlp.experts.{end}": value for end, value in ends.items()}


def _comfy(format_: str) -> dict[str, str]:
    layers = {PACKED: {"format": format_}}
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


FP8 = ("F8_E4M3", (ROWS, COLUMNS))
SCALAR = ("F32", ())
GROUPS = ("F16", (2, ROWS))
FORMATS = {
    "GPTQ": Format(
        "GPTQ",
        of_q(
            qweight=("I32", (4, ROWS)),
            qzeros=("I32", (2, 8)),
            scales=GROUPS,
            g_idx=("I32", (COLUMNS,)),
        ),
    ),
    "AWQ": Format(
        "GPTQ or AWQ",
        of_q(qweight=("I32", (COLUMNS, 8)), qzeros=("I32", (2, 8)), scales=GROUPS),
    ),
    "bitsandbytes nf4": Format(
        "bitsandbytes",
        of_q(
            weight=("U8", (ROWS * COLUMNS // 2, 1)),
            weight__absmax=("U8", (32,)),
            weight__quant_map=("F32", (16,)),
            weight__nested_absmax=("F32", (1,)),
            weight__nested_quant_map=("F32", (256,)),
        )
        | {".self_attn.q_proj.weight.quant_state.bitsandbytes__nf4": ("U8", (80,))},
    ),
    # With FSDP, codes are stored as if they were numbers.
    "bitsandbytes nf4 as bfloat16": Format(
        "bitsandbytes",
        of_q(
            weight=("BF16", (ROWS * COLUMNS // 4, 1)),
            weight__absmax=("F32", (32,)),
            weight__quant_map=("F32", (16,)),
        ),
    ),
    "bitsandbytes int8": Format(
        "bitsandbytes",
        of_q(weight=("I8", (ROWS, COLUMNS)), SCB=("F32", (ROWS,)), weight_format=("U8", ())),
    ),
    "EETQ": Format("EETQ", of_q(weight=("I8", (COLUMNS, ROWS)), weight_scales=("F16", (ROWS,)))),
    "HQQ": Format(
        "HQQ",
        of_q(W_q=("U8", (ROWS // 2, COLUMNS)), scale=GROUPS, zero=GROUPS, shape=("I32", (2,))),
    ),
    "HQQ as floats": Format("HQQ", of_q(W_q=("F16", (16, COLUMNS)), scale=GROUPS, zero=GROUPS)),
    "AQLM": Format(
        "AQLM",
        of_q(
            codes=("I16", (ROWS, 4, 1)), codebooks=("F16", (1, 256, 1, 8)), scales=("F16", (ROWS,))
        ),
    ),
    "VPTQ": Format(
        "VPTQ",
        of_q(
            indices=("I16", (1, ROWS, 4)),
            centroids__weight=("F16", (1, 1024)),
            weight_scale=("F16", (COLUMNS,)),
            weight_bias=("F16", (COLUMNS,)),
        ),
    ),
    "quanto": Format(
        "quanto",
        of_q(
            weight___data=("I8", (ROWS, COLUMNS)),
            weight___scale=("BF16", (ROWS, 1)),
            input_scale=SCALAR,
            output_scale=SCALAR,
        ),
    ),
    "torchao": Format("torchao", of_q(_weight_qdata=FP8, _weight_scale=("F32", (ROWS, 1)))),
    "fp8 with block scales": Format(
        "F8_E4M3 with scales", of_q(weight=FP8, weight_scale_inv=("F32", (1, 1)))
    ),
    "fp8 with block scales as powers of 2": Format(
        "F8_E4M3 with scales", of_q(weight=FP8, weight_scale_inv=("F8_E8M0", (1, 1)))
    ),
    "fp8 of compressed-tensors": Format(
        "F8_E4M3 with scales",
        of_q(weight=FP8, weight_scale=("BF16", (ROWS, 1)), input_scale=("BF16", (1,))),
    ),
    "int8 of compressed-tensors": Format(
        "I8 with scales", of_q(weight=("I8", (ROWS, COLUMNS)), weight_scale=("BF16", (ROWS, 1)))
    ),
    "int4 of compressed-tensors": Format(
        "compressed-tensors",
        of_q(
            weight_packed=("I32", (ROWS, 4)),
            weight_scale=("BF16", (ROWS, 1)),
            weight_shape=("I64", (2,)),
        ),
    ),
    "NVFP4 of compressed-tensors": Format(
        "NVFP4",
        of_q(
            weight_packed=("U8", (ROWS, COLUMNS // 2)),
            weight_scale=("F8_E4M3", (ROWS, 2)),
            weight_global_scale=("F32", (1,)),
            input_global_scale=("F32", (1,)),
        ),
    ),
    "NVFP4 of ModelOpt": Format(
        "NVFP4",
        of_q(
            weight=("U8", (ROWS, COLUMNS // 2)),
            weight_scale=("F8_E4M3", (ROWS, 2)),
            weight_scale_2=SCALAR,
            input_scale=SCALAR,
        ),
    ),
    "MLX": Format(
        "U32",
        of_q(weight=("U32", (ROWS, 4)), scales=("BF16", (ROWS, 1)), biases=("BF16", (ROWS, 1))),
    ),
    "SVDQuant": Format(
        "SVDQuant",
        of_q(
            qweight=("I8", (ROWS, COLUMNS // 2)),
            wscales=("BF16", (1, ROWS)),
            smooth_factor=("BF16", (COLUMNS,)),
            proj_down=("BF16", (COLUMNS, 16)),
            proj_up=("BF16", (ROWS, 16)),
        ),
    ),
    "fp8 of ComfyUI": Format(
        "ComfyUI float8_e4m3fn",
        of_q(weight=FP8, weight_scale=SCALAR, input_scale=SCALAR),
        notes=_comfy("float8_e4m3fn"),
    ),
    "NVFP4 of ComfyUI": Format(
        "ComfyUI nvfp4",
        of_q(
            weight=("U8", (ROWS, COLUMNS // 2)),
            weight_scale=("F8_E4M3", (ROWS, 2)),
            weight_scale_2=SCALAR,
        ),
        notes=_comfy("nvfp4"),
    ),
    "ComfyUI by tensor": Format(
        "ComfyUI", of_q(weight=FP8, weight_scale=SCALAR, comfy_quant=("U8", (27,)))
    ),
    "older fp8 of ComfyUI": Format(
        "ComfyUI", of_q(weight=FP8, scale_weight=SCALAR, scale_input=SCALAR)
    ),
    "fp8 without scales": Format("F8_E4M3", of_q(weight=FP8)),
    "fp5 without scales": Format("F8_E5M2", of_q(weight=("F8_E5M2", (ROWS, COLUMNS)))),
    "fp4": Format("F4", of_q(weight=("F4", (ROWS, COLUMNS)))),
    "MXFP4 of gpt-oss": Format(
        "MXFP4",
        of_experts(
            gate_up_proj_blocks=("U8", (2, ROWS, 1, 16)),
            gate_up_proj_scales=("U8", (2, ROWS, 1)),
        ),
        weight=f"{EXPERTS}.gate_up_proj",
    ),
    "fp8 of experts": Format(
        "F8_E4M3 with scales",
        of_experts(
            gate_up_proj=("F8_E4M3", (2, COLUMNS, ROWS)),
            gate_up_proj_scale_inv=("F32", (2, 1, 1)),
        ),
        weight=f"{EXPERTS}.gate_up_proj",
    ),
    "NVFP4 of experts": Format(
        "U8 with scales",
        of_experts(
            gate_up_proj=("U8", (2, COLUMNS, ROWS // 2)),
            gate_up_proj_weight_scale=("F8_E4M3", (2, COLUMNS, 4)),
            gate_up_proj_weight_scale_2=("F32", (2,)),
        ),
        weight=f"{EXPERTS}.gate_up_proj",
    ),
}


def write_tensors(
    path: Path,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a file with these dtypes and shapes; codes and scales are bytes at random.

    Floats of 16 bits and more are small numbers, so that none of them is a NaN.
    """
    layout = lay_out([(name, *value) for name, value in tensors.items()], metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    bytes_of = random.Random(len(tensors))
    with path.open("wb") as file:
        file.write(layout.header)
        for place in sorted(layout.tensors.values(), key=lambda place: place.begin):
            width = BITS[place.dtype] // 8
            data = bytearray(bytes_of.randbytes(place.end - place.begin))
            if place.dtype in ("F16", "BF16", "F32"):
                data[width - 1 :: width] = bytes([0x3C]) * math.prod(place.shape)
            file.write(data)
    return path


def write_packed(folder: Path, packed: Format, config: Mapping[str, Any] | None = None) -> Path:
    """Write a base with a packed weight between plain ones, and a bias of the packed module."""
    plain = {
        f"{PLAIN}.weight": ("BF16", (ROWS, COLUMNS)),
        f"{PLAIN}.bias": ("BF16", (ROWS,)),
        "model.norm.weight": ("F32", (COLUMNS,)),
    }
    bias = {f"{packed.weight.removesuffix('.weight')}.bias": ("F16", (ROWS,))}
    if not packed.weight.endswith(".weight"):
        bias = {f"{packed.weight}_bias": ("F16", (ROWS,))}
    tensors = {**plain, **packed.stored, **bias}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt", **packed.notes})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
