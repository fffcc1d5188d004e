"""A LoCon with a Tucker core as LyCORIS stores it: `lora_mid.weight`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.deltas.lora import LoRA
from loratools.deltas.tucker import Tucker
from loratools.errors import FormatError, ShapeMismatchError
from loratools.formats import encode
from loratools.lowrank.ranks import RankRule
from loratools.reshaping.rescaled import Rescaling, rescaled
from loratools.reshaping.resized import resized
from tests.formats.kohya.modules import TRAINED, UNET, decoded, tucker

TARGET = f"{UNET}.weight"


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 5), (4, 3, 1, 3, 3), (4, 3)])
def test_shape_of_the_weight_has_the_kernel_of_the_core(shape: tuple[int, ...]) -> None:
    adapter = decoded(tucker(shape=shape))
    assert adapter.kinds == ("Tucker LoCon",)
    assert adapter.updates[TARGET].delta.shape == shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_merge_adds_the_formula(dtype: torch.dtype, tmp_path: Path) -> None:
    """dW = alpha / rank * sum of mid[m, n] * up[:, m] * down[n], computed in float64."""
    tensors = tucker(ranks=(2, 3), dtype=dtype)
    save_file(tensors, tmp_path / "lora.safetensors")
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    name = "mid_block.attentions.0.proj_in.weight"
    save_file({name: weight}, tmp_path / "base.safetensors")
    output = tmp_path / "out.safetensors"
    loratools.merge(tmp_path / "base.safetensors", tmp_path / "lora.safetensors", output=output)
    down, mid, up = (
        tensors[f"{UNET}.lora_{part}.weight"].double() for part in ("down", "mid", "up")
    )
    delta = torch.einsum("mnkl,om,ni->oikl", mid, up.flatten(1), down.flatten(1)) / 3
    merged = load_file(output)[name].double()
    # One rounding to float32 of sums whose order differs, in float64.
    assert (merged - (weight + delta)).abs().max() <= 2.0**-23 * (weight + delta).abs().max()


def test_another_strength_changes_alpha_alone() -> None:
    files = decoded(tucker(), TRAINED)
    halved = encode(rescaled(files, Rescaling(strength=0.5)).adapter)
    before = tucker()
    for key, source in halved.tensors.items():
        wanted = before[key] / 2 if key.endswith(".alpha") else before[key]
        assert torch.equal(source.read(), wanted)
    assert halved.metadata["ss_network_alpha"] == "0.5"


def test_resized_update_is_a_locon_without_a_core() -> None:
    smaller = resized(decoded(tucker(ranks=(3, 3), dtype=torch.float32)), RankRule(rank=2)).adapter
    lora = smaller.updates[TARGET].delta
    assert isinstance(lora, LoRA)
    written = encode(smaller).tensors
    assert {key: source.shape for key, source in written.items()} == {
        f"{UNET}.alpha": (),
        f"{UNET}.lora_down.weight": (2, 3, 3, 3),
        f"{UNET}.lora_up.weight": (4, 2, 1, 1),
    }


@pytest.mark.parametrize("removed", ["lora_down.weight", "lora_up.weight"])
def test_core_without_a_factor_is_half_an_update(removed: str) -> None:
    tensors = tucker()
    del tensors[f"{UNET}.{removed}"]
    with pytest.raises(FormatError, match=f"and no {removed}: half an update"):
        decoded(tensors)


@pytest.mark.parametrize(
    ("down", "mid", "up"),
    [
        ((2, 3, 1, 1), (3, 3, 3, 3), (4, 3, 1, 1)),
        ((2, 3, 3, 3), (2, 2, 3, 3), (4, 2, 1, 1)),
        ((2, 3), (2, 2, 3, 3), (4, 2)),
        ((2, 3, 1, 1), (2,), (4, 2, 1, 1)),
        ((2,), (2, 2), (4, 2)),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    down: tuple[int, ...], mid: tuple[int, ...], up: tuple[int, ...]
) -> None:
    shapes = {"down": down, "mid": mid, "up": up}
    parts = {f"{UNET}.lora_{part}.weight": torch.zeros(shape) for part, shape in shapes.items()}
    with pytest.raises(ShapeMismatchError, match=f"here: {UNET}: lora_down .* do not fit"):
        decoded(parts)


def test_alpha_is_divided_by_the_rank_of_down() -> None:
    delta = decoded(tucker(ranks=(4, 2), alpha=3)).updates[TARGET].delta
    assert isinstance(delta, Tucker)
    assert delta.scaling.value == 1.5
