"""Packed weights are known by names, dtypes and notes that no plain ones have."""

import pytest

from loratools.io.dtypes import FLOATS
from loratools.names.packed import Packed, PackedWeight, find_packed
from tests.packed import FORMATS, PACKED, Format


@pytest.mark.parametrize("packed", FORMATS.values(), ids=FORMATS)
def test_a_packed_weight_has_all_of_its_tensors_and_no_others(packed: Format) -> None:
    stored = {name: dtype for name, (dtype, _) in packed.stored.items()}
    others = {"model.embed_tokens.weight": "BF16", f"{PACKED}.bias": "F16", f"{PACKED}2.x": "F32"}
    notes = {PACKED: packed.said.removeprefix("ComfyUI ")} if packed.notes else {}
    found = find_packed(stored | others, notes)
    assert found.weights == {packed.weight: PackedWeight(packed.said, list(stored))}


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "F8_E8M0", "U8", "I32"])
def test_weights_in_other_dtypes_than_plain_floats_are_packed(dtype: str) -> None:
    assert find_packed({"q.weight": dtype}).described("q.weight") == f"packed ({dtype})"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "name",
    [
        "weight", "q.weight", "attn.masked_bias", "attn.logit_scale", "blocks.0.scale", "q.scales",
        "norm.scale", "blocks.0.layer_scale", "embed.codebooks", "block.indices", "conv.shape",
        "transformer_blocks", "attn.k_scale", "model.position_ids", "lstm.weight_ih_l0",
        "engram.q_weight", "attn.W_q", "model.trellis", "model.qweight", "model.embedding_scale",
        "model.weight_scale", "conv.weight_g", "conv.weight_v", "q_blocks",
        "conv.parametrizations.weight.original0",
    ],
)  # fmt: skip
def test_plain_weights_and_buffers_are_none_of_it(name: str, dtype: str) -> None:
    others = {"index": "I64", "mask": "BOOL", "attn.bias": "U8", "attn.logit": "F32"}
    assert find_packed({name: dtype, **others}) == Packed({})


def test_scales_of_activations_are_known_beside_packed_weights() -> None:
    found = find_packed({"q.weight": "F8_E4M3", "attn.k_scale": "F32", "attn.scale": "F32"})
    assert [name for name in ("attn.k_scale", "attn.scale") if found.keeps(name)] == [
        "attn.k_scale"
    ]


def test_the_mark_of_a_whole_file_is_no_weight() -> None:
    assert find_packed({"scaled_fp8": "F8_E4M3"}) == Packed({})


@pytest.mark.parametrize("root", ["", "model.diffusion_model."])
def test_notes_may_leave_out_the_root_of_a_checkpoint(root: str) -> None:
    found = find_packed({f"{root}blocks.0.q.weight": "BF16"}, {"blocks.0.q": "float8_e5m2"})
    assert list(found.weights) == [f"{root}blocks.0.q.weight"]


def test_a_bias_in_floats_is_not_packed_and_one_in_codes_is() -> None:
    stored = {"q.weight": "F8_E4M3", "q.bias": "BF16", "k.weight": "F8_E4M3", "k.bias": "F8_E4M3"}
    found = find_packed(stored)
    assert [name for name in stored if not found.holds(name)] == ["q.bias"]


def test_what_is_inside_a_packed_weight_is_no_weight_of_its_own() -> None:
    stored = {"q.indices": "I16", "q.centroids.weight": "F8_E4M3", "q.weight_scale": "F16"}
    assert find_packed(stored).weights == {"q.weight": PackedWeight("VPTQ", list(stored))}
