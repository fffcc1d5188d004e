"""What a change of a part of a fused weight does, is made an update of the part."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import loratools
from loratools import open_adapter
from loratools.errors import UnsupportedError
from loratools.files.opening import open_base
from loratools.lowrank.ranks import RankRule
from loratools.reshaping.additive import additive
from tests.deltas.examples import change
from tests.merged import eighths, pair, write_adapter, write_base
from tests.narrowing import present

LAYER = "model.layers.0.mlp."
PARTS = ("gate_proj", "up_proj")


def fused(folder: Path) -> Path:
    weights = {
        f"{LAYER}gate_up_proj.weight": eighths(6, 4),
        f"{LAYER}down_proj.weight": eighths(4, 3),
    }
    return write_base(folder, weights, {"model_type": "phi3"})


def apart(folder: Path) -> Path:
    """The same weights, with those of `gate_up_proj` apart."""
    whole = eighths(6, 4)
    weights = {
        f"{LAYER}{part}.weight": whole[3 * n : 3 * n + 3].clone() for n, part in enumerate(PARTS)
    }
    return write_base(folder, {**weights, f"{LAYER}down_proj.weight": eighths(4, 3)})


def dora(folder: Path, modules: tuple[str, ...], rows: int) -> Path:
    factors: dict[str, Tensor] = {}
    for seed, module in enumerate(modules):
        factors |= pair(f"{LAYER}{module}", rows, 4, seed)
        factors[f"{LAYER}{module}.lora_magnitude_vector"] = torch.arange(1.0, rows + 1)
    return write_adapter(folder, factors, target_modules=list(modules), use_dora=True)


def test_effect_on_a_part_of_a_fused_weight_is_that_on_the_part_alone(tmp_path: Path) -> None:
    adapter = open_adapter(dora(tmp_path / "dora", PARTS, 3))
    made = [
        additive(adapter, open_base(base), RankRule(rank=3)).adapter.updates
        for base in (fused(tmp_path / "fused"), apart(tmp_path / "apart"))
    ]
    for part in PARTS:
        one, other = (updates[f"{LAYER}{part}.weight"].delta for updates in made)
        assert one.shape == other.shape == (3, 4)
        weight = torch.zeros(3, 4).double()
        torch.testing.assert_close(change(one, weight=weight), change(other, weight=weight))


def test_one_update_that_depends_on_several_weights_is_refused_by_name(tmp_path: Path) -> None:
    """Its effect on each of them is an update of its own, of which a file has no name."""
    adapter = open_adapter(dora(tmp_path / "dora", ("gate_up_proj",), 6))
    with pytest.raises(UnsupportedError, match=r"gate_up_proj\.weight: DoRA depends on weights"):
        additive(adapter, open_base(apart(tmp_path / "apart")), RankRule(rank=3))


@pytest.mark.parametrize("layout", [fused, apart])
def test_updates_are_measured_beside_the_rows_that_they_change(
    tmp_path: Path, layout: Callable[[Path], Path]
) -> None:
    """Not beside the other part of a fused weight, nor beside a part of what they change."""
    base = layout(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    whole = torch.cat([weights[n] for n in sorted(weights) if "down" not in n]).double()
    for modules, rows in ((("gate_proj",), 3), (("up_proj",), 3), (("gate_up_proj",), 6)):
        factors = pair(f"{LAYER}{modules[0]}", rows, 4)
        adapter = write_adapter(tmp_path / modules[0], factors, target_modules=list(modules))
        found = loratools.inspect(adapter, base=base, spectrum=True)
        (row,) = present(found.spectra)
        own = {"gate_proj": whole[:3], "up_proj": whole[3:]}.get(modules[0], whole)
        expected = present(row.spectrum).frobenius / math.sqrt(float(own.square().sum()))
        assert present(row.relative) == pytest.approx(expected)
