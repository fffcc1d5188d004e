"""A file that LyCORIS wrote, with the weights that LyCORIS merges it to."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.deltas.dora import DoRA
from tests.formats.kohya.test_kohya import written

FOLDER = Path(__file__).parents[3] / "fixtures" / "kohya" / "lycoris-tucker-dora"
FILE = FOLDER / "lycoris-tucker-dora.safetensors"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
SHAPES = {name: tuple(merged["shape"]) for name, merged in EXPECTED["merged"].items()}


def numbers(shape: tuple[int, ...], step: int) -> Tensor:
    """The numbers of which `scripts/make_lycoris_fixture.py` makes the base."""
    count = math.prod(shape)
    return ((torch.arange(count) * step) % 65 - 32).double().reshape(shape) / 16


def test_merged_weights_are_those_of_lycoris(tmp_path: Path) -> None:
    """Both are computed in float64; LyCORIS adds 2^-52 to norms of 1 and more."""
    base = {f"{name}.weight": numbers(shape, 23) for name, shape in SHAPES.items()}
    save_file(base, tmp_path / "base.safetensors")
    output = tmp_path / "out.safetensors"
    report = loratools.merge(tmp_path / "base.safetensors", FILE, output=output)
    assert len(report.plan.accounting.applied) == EXPECTED["tensors"]
    for key, weight in load_file(output).items():
        merged = EXPECTED["merged"][key.removesuffix(".weight")]
        terms = weight.flatten() * numbers((weight.numel(),), 29)
        assert weight.norm().item() == pytest.approx(merged["norm"], rel=2.0**-44)
        near = 2.0**-44 * terms.abs().sum().item()
        assert terms.sum().item() == pytest.approx(merged["sum"], abs=near)


def test_tensors_are_written_again_byte_for_byte(tmp_path: Path) -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == EXPECTED["sha256"]
    adapter = loratools.open_adapter(FILE)
    assert len(written(adapter, tmp_path / "out.safetensors")) == EXPECTED["tensors"]
    header, again = (path.read_bytes() for path in (FILE, tmp_path / "out.safetensors"))
    begin, start = (8 + int.from_bytes(content[:8], "little") for content in (header, again))
    assert again[start:] == header[begin:]


def test_axes_are_those_that_lycoris_was_set_to() -> None:
    """That of the square convolution too, as the other convolutions tell it."""
    adapter = loratools.open_adapter(FILE)
    assert sorted(adapter.kinds) == ["DoRA", "Tucker LoCon"]
    axes = {
        target.removeprefix("lora_unet_").removesuffix(".weight"): update.delta.axis
        for target, update in adapter.updates.items()
        if isinstance(update.delta, DoRA)
    }
    told = {name: name.rpartition("_")[2].removesuffix("s") for name in axes}
    assert axes == told | {"core_1d": "column", "core_3d": "row"}
    assert adapter.notes == ()
