"""`dora_scale` in all the shapes that files have: which axis it is for, and how it is stored."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.deltas.dora import DoRA
from loratools.errors import ShapeMismatchError
from loratools.formats import decode, encode
from loratools.formats._modules.axes import StoredShapes, decided
from loratools.formats._modules.codecs import all_codecs
from tests.formats.kohya.modules import TEXT, UNET, bundle, decoded, magnitude, module, tucker

TARGET = f"{UNET}.weight"


def dora_of(tensors: dict[str, Tensor], name: str = UNET) -> DoRA:
    delta = decoded(tensors).updates[f"{name}.weight"].delta
    assert isinstance(delta, DoRA)
    return delta


@pytest.mark.parametrize(
    ("stored", "weight", "axis"),
    [
        ((4, 1), (4, 3), "row"),
        ((4,), (4, 3), "row"),
        ((1, 3), (4, 3), "column"),
        ((3,), (4, 3), "column"),
        ((4, 1, 1, 1), (4, 3, 3, 3), "row"),
        ((1, 3, 1, 1), (4, 3, 3, 3), "column"),
        ((1, 4, 1, 1), (4, 3, 3, 3), "row"),
        ((1, 4, 1), (4, 3, 3), "row"),
        ((1, 4, 1, 1, 1), (4, 3, 1, 3, 3), "row"),
        ((4, 1, 1, 1), (4, 3), "row"),
        ((1, 1), (1, 3), "row"),
        ((1, 3), (1, 3), "column"),
        ((1, 1), (3, 1), "column"),
        ((1,), (1, 1), "row"),
        ((3, 1), (3, 3), "row"),
        ((1, 3), (3, 3), "column"),
    ],
)
def test_shape_tells_the_axis(stored: tuple[int, ...], weight: tuple[int, ...], axis: str) -> None:
    adapter = decoded(module(shape=weight) | magnitude(*stored))
    delta = adapter.updates[TARGET].delta
    assert isinstance(delta, DoRA)
    assert (delta.axis, delta.shape) == (axis, weight)
    assert adapter.notes == ()


@pytest.mark.parametrize(
    ("stored", "weight", "axis", "what"),
    [((3,), (3, 3), "row", "output"), ((1, 3, 1, 1), (3, 3, 3, 3), "column", "input")],
)
def test_square_weight_alone_is_read_as_programs_read_it_and_noted(
    stored: tuple[int, ...], weight: tuple[int, ...], axis: str, what: str
) -> None:
    adapter = decoded(module(shape=weight) | magnitude(*stored))
    delta = adapter.updates[TARGET].delta
    assert isinstance(delta, DoRA)
    assert delta.axis == axis
    (note,) = adapter.notes
    assert (note.severity, UNET in note.message) == ("info", True)
    assert f"taken as one for each {what}" in note.message


@pytest.mark.parametrize(("other", "axis"), [((1, 5, 1, 1), "row"), ((1, 2, 1, 1), "column")])
def test_square_weight_has_the_axis_of_the_other_weights(other: tuple[int, ...], axis: str) -> None:
    """(1, n, 1, 1) is LyCORIS' magnitude of the inputs, or PEFT's of the outputs."""
    square = module(shape=(3, 3, 3, 3)) | magnitude(1, 3, 1, 1)
    wide = module(TEXT, shape=(5, 2, 3, 3)) | magnitude(*other, name=TEXT)
    assert dora_of(square | wide).axis == axis
    assert decoded(square | wide).notes == ()
    assert decoded(wide | square).kinds == ("DoRA",)


def test_other_weights_that_differ_decide_nothing() -> None:
    shapes = {
        "a": StoredShapes((1, 3, 1, 1), (3, 3, 3, 3)),
        "b": StoredShapes((1, 5, 1, 1), (5, 2, 3, 3)),
        "c": StoredShapes((1, 2, 1, 1), (5, 2, 3, 3)),
        "d": StoredShapes((4,), (4, 4)),
        "e": StoredShapes((5, 1, 1, 1), (5, 2, 3, 3)),
    }
    assert decided(shapes) == ({}, ("a", "d"))


def test_name_of_peft_means_the_outputs() -> None:
    held = bundle({"lora_magnitude_vector": torch.ones(1, 3, 1, 1)}).tensors
    parts = {
        key.removeprefix(f"{UNET}."): source
        for key, source in bundle(module(shape=(3, 3, 3, 3))).tensors.items()
    }
    deltas, notes = all_codecs().decoded("here", {UNET: {**parts, **held}})
    delta = deltas[UNET]
    assert isinstance(delta, DoRA)
    assert (delta.axis, notes) == ("row", ())


@pytest.mark.parametrize(
    "stored", [(5,), (5, 1), (1, 5), (3, 1), (4, 3), (2, 2), (1, 1, 4, 1), (1, 1, 3), (), (1,)]
)
def test_magnitude_of_another_shape_is_refused(stored: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatchError, match=rf"here: {UNET}\.dora_scale: .* \[4, 3, 3, 3\]"):
        decoded(module(shape=(4, 3, 3, 3)) | magnitude(*stored))


SHAPES = [(4,), (4, 1), (4, 1, 1, 1), (1, 4, 1, 1), (3,), (1, 3), (1, 3, 1, 1)]


def test_magnitude_under_peft_s_name_is_written_under_it() -> None:
    """diffusers leaves this name where it renames all others to kohya's."""
    named = {f"{UNET}.lora_magnitude_vector": torch.ones(1, 4, 1, 1).half()}
    files = bundle(module(shape=(4, 4, 3, 3)) | named)
    adapter = decode(files)
    again = encode(adapter).tensors
    assert adapter.notes == ()
    assert list(again) == list(files.tensors)
    assert all(torch.equal(again[k].read(), source.read()) for k, source in files.tensors.items())


@pytest.mark.parametrize("stored", SHAPES, ids=str)
@pytest.mark.parametrize("has_core", [False, True])
def test_magnitude_is_written_in_the_shape_it_was_read(
    stored: tuple[int, ...], has_core: bool
) -> None:
    change = tucker() if has_core else module(shape=(4, 3, 3, 3))
    files = bundle(change | magnitude(*stored))
    again = encode(decode(files)).tensors
    assert list(again) == list(files.tensors)
    for key, source in files.tensors.items():
        assert torch.equal(again[key].read(), source.read()), key


@pytest.mark.parametrize("stored", SHAPES, ids=str)
def test_magnitude_of_an_adapter_from_elsewhere_has_all_axes(stored: tuple[int, ...]) -> None:
    """As LyCORIS stores it; other readers multiply by it as it is, so a vector would be wrong."""
    adapter = decoded(module(shape=(4, 3, 3, 3)) | magnitude(*stored))
    again = encode(replace(adapter, filed=None), "kohya").tensors[f"{UNET}.dora_scale"]
    assert again.shape == ((4, 1, 1, 1) if 4 in stored else (1, 3, 1, 1))
    assert torch.equal(again.read().flatten(), magnitude(*stored)[f"{UNET}.dora_scale"].flatten())


@pytest.mark.parametrize(
    ("shape", "stored", "has_core"),
    [
        ((4, 3), (4, 1), False),
        ((4, 3), (1, 3), False),
        ((4, 3, 3, 3), (4, 1, 1, 1), False),
        ((4, 3, 3, 3), (1, 3, 1, 1), False),
        ((4, 3, 3, 3), (1, 3, 1, 1), True),
        ((4, 3, 1, 3, 3), (1, 3, 1, 1, 1), True),
    ],
)
def test_merge_sets_the_norms_over_all_other_axes(
    shape: tuple[int, ...], stored: tuple[int, ...], has_core: bool, tmp_path: Path
) -> None:
    """V = W + dW, W' = m * V / norm(V), by the formula in float64."""
    change = tucker(shape=shape) if has_core else module(shape=shape)
    tensors = change | magnitude(*stored)
    save_file(tensors, tmp_path / "lora.safetensors")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    name = "mid_block.attentions.0.proj_in.weight"
    save_file({name: weight}, tmp_path / "base.safetensors")
    output = tmp_path / "out.safetensors"
    loratools.merge(tmp_path / "base.safetensors", tmp_path / "lora.safetensors", output=output)
    up, down = (
        tensors[f"{UNET}.lora_{part}.weight"].double().flatten(1) for part in ("up", "down")
    )
    if has_core:
        core = tensors[f"{UNET}.lora_mid.weight"].double()
        delta = torch.einsum("mn...,om,ni->oi...", core, up, down) / 2
    else:
        delta = (up @ down).reshape(shape) / 2
    moved = weight.double() + delta
    others = [axis for axis in range(len(shape)) if axis >= len(stored) or stored[axis] == 1]
    norms = moved.square().sum(dim=others, keepdim=True).sqrt()
    expected = tensors[f"{UNET}.dora_scale"].double() * moved / norms
    merged = load_file(output)[name].double()
    # A float32 base is computed in float64 and rounded once.
    assert (merged - expected).abs().max() <= 2.0**-24 * expected.abs().max() * (1 + 2.0**-20)
