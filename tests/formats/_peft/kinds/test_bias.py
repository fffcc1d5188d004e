"""Updates of biases as PEFT stores them: what the scaling of the factors is multiplied with."""

from dataclasses import replace

import pytest
import torch

from loratools.deltas.diff import Diff
from loratools.deltas.lora import Scaling
from loratools.errors import UnsupportedError
from loratools.formats import decode, encode
from loratools.io.source import Held
from loratools.parts import Update
from tests.adapters import assert_same, effects
from tests.formats._peft.parts import held, update
from tests.formats.bundles import PREFIX, decoded, lora

PAIR = lora("layer.q")


@pytest.mark.parametrize("key", ["lora_B.bias", "lora_B.default.bias"])
def test_bias_of_the_up_factor_updates_the_bias(key: str) -> None:
    adapter = decoded({**PAIR, f"{PREFIX}layer.q.{key}": (4,)})
    assert {name: update.delta.kind for name, update in adapter.updates.items()} == {
        "layer.q.weight": "LoRA",
        "layer.q.bias": "diff",
    }


def test_bias_is_stored_for_the_scaling_of_its_module() -> None:
    """The module's scaling is 4 / 2, the bias's 3: stored times 3 / 2, and read with 2."""
    bias = Diff(Held("bias", torch.tensor([1.0, 2, 3, 4]), "F32"), Scaling(3, 1, "rank", "config"))
    adapter = replace(
        decoded(lora("a.q")), updates={"a.q.weight": update(), "a.q.bias": Update(bias)}
    )
    bundle = encode(adapter)
    stored = bundle.tensors[f"{PREFIX}a.q.lora_B.bias"].read()
    assert stored.tolist() == [1.5, 3.0, 4.5, 6.0]
    assert effects(decode(bundle))["a.q.bias"].tolist() == [3, 6, 9, 12]


def test_modules_without_a_bias_get_one_of_zeros_where_others_have_one() -> None:
    bias = Diff(held(4), Scaling(4, 2, "rank", "config"))
    updates = {"a.q.weight": update(), "a.q.bias": Update(bias), "b.q.weight": update(rows=5)}
    again = decode(encode(replace(decoded(lora("a.q")), updates=updates)))
    assert effects(again)["b.q.bias"].tolist() == [0.0] * 5


def test_bias_of_a_module_with_a_scaling_of_zero_is_refused() -> None:
    bias = Diff(held(4), Scaling(4, 2, "rank", "config"))
    updates = {"a.q.weight": update(alpha=0), "a.q.bias": Update(bias)}
    with pytest.raises(UnsupportedError, match="a bias with a scaling of 0"):
        encode(replace(decoded(lora("a.q")), updates=updates))


def test_bias_of_an_out_proj_counts_once_however_often_its_weight_does() -> None:
    shapes = lora("mha", rows=9) | lora("mha.base_layer.out_proj", rows=3)
    bias = f"{PREFIX}mha.base_layer.out_proj.lora_B.bias"
    adapter = decoded({**shapes, bias: (3,)}, lora_bias=True)
    assert_same(adapter, decode(encode(adapter)))
    assert encode(adapter).tensors[bias].keys == (bias,)


def test_bias_of_an_embedding_has_no_place() -> None:
    bias = Update(Diff(held(4), Scaling(4, 2, "rank", "config")))
    updates = {"tok.weight": replace(update(), is_embedding=True), "tok.bias": bias}
    with pytest.raises(UnsupportedError, match=r"tok\.bias: PEFT has no place for a diff"):
        encode(replace(decoded(PAIR), updates=updates))


def test_bias_beside_the_factors_of_an_embedding_is_refused() -> None:
    """PEFT never writes one, and an embedding has no bias."""
    pair = {"lora_embedding_A": (2, 7), "lora_embedding_B": (3, 2), "lora_B.bias": (7,)}
    with pytest.raises(UnsupportedError, match=r"tok: lora_B\.bias beside lora_embedding_A"):
        decoded({f"{PREFIX}tok.{part}": shape for part, shape in pair.items()})
