"""State dicts of microsoft/LoRA: each layer compared with the formula of its own code."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import loratools
from loratools.adapter import Adapter
from loratools.deltas.stacked import Stacked
from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError
from loratools.formats import decode, encode
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from tests.adapters import effects
from tests.formats.bundles import Shapes, notes
from tests.narrowing import present

Q = "transformer.h.0.attn.c_attn"


def pair(a: tuple[int, int], b: tuple[int, int], module: str = Q) -> Shapes:
    return {f"{module}.lora_A": a, f"{module}.lora_B": b}


def whole(shapes: Shapes) -> Bundle:
    """A bundle of whole numbers, whose sums and products are exact."""
    generator = torch.Generator().manual_seed(len(shapes))
    tensors = {
        key: Held(key, torch.randint(-3, 4, shape, generator=generator).float(), "F32")
        for key, shape in shapes.items()
    }
    return Bundle("here", tensors, {}, None, (), 0)


def factors(files: Bundle) -> tuple[Tensor, Tensor]:
    a, b = (files.tensors[f"{Q}.{part}"].read().double() for part in ("lora_A", "lora_B"))
    return a, b


def read(files: Bundle, **options: str) -> Adapter:
    adapter = decode(files, options)
    assert present(adapter.filed).dialect == "loralib"
    return adapter


def test_linear_layer_is_alpha_over_rank_times_b_a() -> None:
    files = whole(pair((2, 5), (6, 2)))
    a, b = factors(files)
    adapter = read(files, alpha="8")
    assert torch.equal(effects(adapter)[f"{Q}.weight"], 4 * b @ a)
    (update,) = adapter.updates.values()
    assert (update.fan_in_fan_out, present(update.delta.scaling).origin) == (False, "option")
    assert notes(adapter, "problem") == []


def test_alpha_that_nothing_says_is_the_rank_and_a_problem() -> None:
    adapter = read(whole(pair((2, 5), (6, 2))))
    (update,) = adapter.updates.values()
    scaling = present(update.delta.scaling)
    assert (scaling.value, scaling.origin) == (1, "assumed")
    assert [
        note.trap
        for note in adapter.notes
        if "say it with dialect_options={'alpha': …}" in note.message
    ] == ["missing-alpha"]


def test_what_is_read_is_written_in_another_format() -> None:
    files = whole({**pair((2, 5), (6, 2), "model.layers.0.self_attn.q_proj")})
    adapter = read(files, alpha="8")
    for other in ("peft", "mlx"):
        again = decode(encode(adapter, other))
        for target, effect in effects(adapter).items():
            assert torch.equal(effects(again)[target], effect)


@pytest.mark.parametrize("enabled", ["110", "101", "011", "100", "010", "001", "111", "11", "10"])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_merged_linear_is_a_grouped_convolution_with_zeros_between(
    enabled: str, is_transposed: bool
) -> None:
    """As `MergedLinear.merge_AB` and `zero_pad`: conv1d over the parts that are updated."""
    groups, rank, part, columns = enabled.count("1"), 2, 4, 5
    rows = part * len(enabled)
    shape = (columns, rows) if is_transposed else (rows, columns)
    shapes = {**pair((rank * groups, columns), (part * groups, rank)), f"{Q}.weight": shape}
    files = whole(shapes)
    a, b = factors(files)
    updated = functional.conv1d(a[None], b[..., None], groups=groups)[0]
    expected = torch.zeros(rows, columns, dtype=torch.float64)
    is_row = torch.tensor([digit == "1" for digit in enabled]).repeat_interleave(part)
    expected[is_row] = updated
    stated = {} if groups == len(enabled) else {"enable_lora": enabled}
    adapter = read(files, alpha="6", **stated)
    assert torch.equal(effects(adapter)[f"{Q}.weight"], 3 * expected)


def test_parts_without_the_weight_are_those_that_are_said() -> None:
    files = whole(pair((4, 5), (8, 2)))
    with pytest.raises(UnsupportedError, match=r"2 parts of a fused .*'enable_lora': '101'"):
        read(files)
    assert read(files, enable_lora="101").updates[f"{Q}.weight"].delta.shape == (12, 5)
    with pytest.raises(UnsupportedError, match=r"2 of 3 parts .* nothing says which"):
        read(whole({**pair((4, 5), (8, 2)), f"{Q}.weight": (12, 5)}))


def test_parts_that_are_said_are_for_fused_layers_alone() -> None:
    shapes = {**pair((4, 5), (8, 2)), **pair((2, 5), (6, 2), "fc")}
    adapter = read(whole(shapes), enable_lora="101")
    assert {t: u.delta.shape for t, u in adapter.updates.items()} == {
        f"{Q}.weight": (12, 5),
        "fc.weight": (6, 5),
    }


def test_convolution_is_the_product_in_the_shape_of_the_weight() -> None:
    """As `ConvLoRA.forward`: (lora_B @ lora_A).view(weight.shape) * alpha / r."""
    files = whole({**pair((2 * 3, 5 * 3), (4 * 3, 2 * 3)), f"{Q}.weight": (4, 5, 3, 3)})
    a, b = factors(files)
    (update,) = read(files, alpha="4").updates.values()
    assert isinstance(update.delta, Stacked)
    assert torch.equal(update.delta.dense_rows(0, 4), (2 * b @ a).view(4, -1))


def test_weights_beside_the_factors_are_the_models_own() -> None:
    """Then the same file, as the base and as the adapter, merges to the clean model."""
    shapes = {**pair((2, 5), (6, 2)), f"{Q}.weight": (6, 5), "head.bias": (3,)}
    adapter = read(whole(shapes), alpha="4")
    assert {t: r.is_trained for t, r in adapter.replaced.items()} == {
        f"{Q}.weight": False,
        "head.bias": False,
    }
    assert any("saved in eval mode" in note for note in notes(adapter, "problem"))
    del shapes[f"{Q}.weight"]
    assert read(whole(shapes)).replaced["head.bias"].is_trained


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        ({f"{Q}.lora_A": (2, 5)}, FormatError, "lora_A and no lora_B: half an update"),
        ({f"{Q}.lora_B": (5, 2)}, FormatError, "lora_B and no lora_A: half an update"),
        (pair((3, 5), (6, 2)), ShapeMismatchError, "do not fit: expected (rank, in)"),
        (
            {**pair((2, 5), (6, 2)), f"{Q}.weight": (7, 5)},
            ShapeMismatchError,
            "do not fit the weight [7, 5]",
        ),
        (
            {**pair((6, 15), (12, 6)), f"{Q}.weight": (4, 5, 3)},
            ShapeMismatchError,
            "do not fit the weight [4, 5, 3]",
        ),
        ({**pair((2, 5), (6, 2)), f"{Q}.hada_w1_a": (2, 2)}, UnsupportedError, "LoHa"),
    ],
)  # fmt: skip
def test_what_is_no_layer_of_microsoft_lora_is_refused(
    shapes: Shapes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"here: .*{re.escape(message)}"):
        decode(whole(shapes))


@pytest.mark.parametrize(
    ("keys", "dialect"),
    [
        (["a.lora_A.weight", "a.lora_B.weight"], "peft"),
        (["diffusion_model.a.lora_A", "diffusion_model.a.lora_B"], "comfyui"),
        (["transformer.blocks.a.lora_A", "transformer.blocks.a.lora_B"], "diffusers"),
        (["double_blocks.0.a.lora_A", "double_blocks.0.a.lora_B"], "bfl"),
        (["lora_unet_a.lora_A", "lora_unet_a.lora_B"], "kohya"),
    ],
)
def test_keys_of_other_formats_are_theirs(keys: list[str], dialect: str) -> None:
    shapes = dict(zip(keys, ((2, 5), (6, 2)), strict=True))
    assert present(decode(whole(shapes)).filed).dialect == dialect


def test_layer_with_an_alpha_is_not_one_of_microsoft_lora() -> None:
    """An alpha would be a whole tensor of the model, and the scaling a guess."""
    adapter = decode(whole({**pair((2, 5), (6, 2)), f"{Q}.alpha": ()}))
    assert present(adapter.filed).dialect == "peft"
    assert present(adapter.updates[f"{Q}.weight"].delta.scaling).origin == "tensor"


def test_pickle_with_its_model_merges_into_a_model_of_the_same_names(tmp_path: Path) -> None:
    shapes: Any = {**pair((2, 5), (6, 2)), f"{Q}.weight": (6, 5), f"{Q}.bias": (6,)}
    state = {key: source.read() for key, source in whole(shapes).tensors.items()}
    torch.save(state, tmp_path / "lora.pt")
    from safetensors.torch import load_file, save_file

    clean = {key: tensor for key, tensor in state.items() if "lora" not in key}
    save_file(clean, tmp_path / "base.safetensors")
    loratools.merge(
        tmp_path / "base.safetensors",
        tmp_path / "lora.pt",
        output=tmp_path / "merged.safetensors",
        allow_pickle=True,
        dialect_options={"alpha": "4"},
    )
    merged = load_file(tmp_path / "merged.safetensors")
    expected = clean[f"{Q}.weight"] + 2 * state[f"{Q}.lora_B"] @ state[f"{Q}.lora_A"]
    assert torch.equal(merged[f"{Q}.weight"], expected)
    assert torch.equal(merged[f"{Q}.bias"], clean[f"{Q}.bias"])
