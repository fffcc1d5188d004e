"""A base whose stored numbers are codes is known by its config, its dtypes and its names."""

from typing import Any

import pytest

from loratools.io.dtypes import FLOATS
from loratools.names.quantised import quantisation


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("model.q.weight.absmax", "bitsandbytes"),
        ("model.q.weight.quant_map", "bitsandbytes"),
        ("model.q.weight.nested_absmax", "bitsandbytes"),
        ("model.q.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("model.q.SCB", "bitsandbytes"),
        ("model.q.qweight", "GPTQ or AWQ"),
        ("model.q.qzeros", "GPTQ or AWQ"),
        ("model.q.g_idx", "GPTQ or AWQ"),
        ("model.experts.gate_up_proj_blocks", "MXFP4"),
        ("model.q.weight_scale_inv", "fp8 or packed with scales"),
        ("model.q.weight_scale", "fp8 or packed with scales"),
        ("model.q.weight_packed", "fp8 or packed with scales"),
    ],
)
def test_mark_of_a_method_is_recognised_and_shown(name: str, mark: str) -> None:
    assert quantisation({"model.norm.weight": "BF16", name: "U8"}, {}) == (
        f"the base is quantised ({mark}: it has {name}): merge into the original float weights, "
        f"then quantise the result"
    )


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "F8_E8M0"])
def test_packed_floats_are_codes(dtype: str) -> None:
    reason = quantisation({"q.weight": dtype}, None)
    assert reason is not None
    assert f"(q.weight is {dtype})" in reason


@pytest.mark.parametrize(
    ("declared", "method"),
    [
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_algo": "FP8"}, "FP8"),
        ({"bits": 4}, "quantization_config"),
        ({}, "quantization_config"),
    ],
)
def test_config_declares_it(declared: dict[str, Any], method: str) -> None:
    reason = quantisation({"q.weight": "BF16"}, {"quantization_config": declared})
    assert reason is not None
    assert f"({method}, says its config.json)" in reason


@pytest.mark.parametrize("config", [None, {}, {"quantization_config": None}], ids=str)
@pytest.mark.parametrize(
    "name", ["model.q.weight", "attn.masked_bias", "position_ids", "model.blocks.0.scale"]
)
def test_plain_weights_and_buffers_are_none_of_it(name: str, config: Any) -> None:
    assert quantisation({name: "BF16", "index": "I64", "mask": "BOOL"}, config) is None


@pytest.mark.parametrize("dtype", FLOATS)
def test_plain_floats_of_every_width_are_not_codes(dtype: str) -> None:
    assert quantisation({"a.weight": dtype}, None) is None
