"""The energy of each block, compared with norms of whole updates in float64."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import loratools
from loratools.cli import cli
from loratools.describing.energy import BlockEnergy, block_energies
from loratools.files.opening import open_adapter
from loratools.names.blocks import block_of, position
from tests.adapters import effects
from tests.e2e.commands import FIXTURES
from tests.merged import pair, update, write_adapter, write_base
from tests.narrowing import present

ADAPTERS = [
    *(FIXTURES / "kohya" / name for name in ("sd15-locon", "sdxl-dynamic")),
    *(FIXTURES / "adapters" / name for name in ("plain", "gpt2-bias-all", "rslora-patterns")),
]


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
def test_energy_is_the_sum_of_squares_of_a_blocks_updates(path: Path) -> None:
    adapter = open_adapter(path)
    squares: dict[str, list[float]] = {}
    for target, effect in effects(adapter).items():
        squares.setdefault(block_of(target), []).append(float(effect.square().sum()))
    whole = math.fsum(math.fsum(some) for some in squares.values())
    found = block_energies(adapter, {})
    assert [energy.block for energy in found] == sorted(squares, key=position)
    for energy in found:
        expected = math.fsum(squares[energy.block])
        assert energy.targets == len(squares[energy.block])
        assert present(energy.norm) == pytest.approx(math.sqrt(expected), rel=1e-9)
        assert present(energy.share) == pytest.approx(expected / whole, rel=1e-9)
        assert energy.relative is None
    assert math.fsum(present(energy.share) for energy in found) == pytest.approx(1, rel=1e-12)


def test_with_a_base_energy_is_relative_to_the_weights_of_the_block(tmp_path: Path) -> None:
    one, other = pair("model.layers.0.q", 4, 3, seed=1), pair("model.layers.0.k", 4, 3, seed=2)
    adapter = write_adapter(tmp_path / "adapter", {**one, **other})
    names = ("model.layers.0.q.weight", "model.layers.0.k.weight", "model.layers.1.q.weight")
    base = write_base(tmp_path / "base", {name: torch.full((4, 3), 2.0) for name in names})
    (energy,) = present(loratools.inspect(adapter, base=base, blocks=True).blocks)
    norm = math.hypot(*(float(update(factors).norm()) for factors in (one, other)))
    assert present(energy.norm) == pytest.approx(norm)
    assert present(energy.relative) == pytest.approx(norm / math.sqrt(24 * 4))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_block_with_a_number_that_is_not_finite_has_no_energy(
    tmp_path: Path, number: float
) -> None:
    broken = pair("model.layers.0.q", 4, 3, seed=1)
    broken["model.layers.0.q.lora_A.weight"][0, 0] = number
    adapter = write_adapter(tmp_path / "a", {**broken, **pair("model.layers.1.q", 4, 3, seed=2)})
    found = present(loratools.inspect(adapter, blocks=True).blocks)
    assert found[0] == BlockEnergy("B00", 1, None, None)
    assert found[1].norm is not None
    assert found[1].share is None
    result = CliRunner().invoke(cli, ["inspect", str(adapter), "--blocks"])
    assert "not finite" in result.stdout
    json.loads(CliRunner().invoke(cli, ["inspect", str(adapter), "--blocks", "--json"]).stdout)


def test_updates_that_are_zero_have_no_share(tmp_path: Path) -> None:
    zero = {name: 0 * tensor for name, tensor in pair("model.layers.0.q", 4, 3).items()}
    adapter = write_adapter(tmp_path / "a", zero)
    found = present(loratools.inspect(adapter, blocks=True).blocks)
    assert found == (BlockEnergy("B00", 1, 0.0, None),)


def test_rescaling_a_block_changes_its_energy_and_no_other(tmp_path: Path) -> None:
    from loratools import Rescaling

    path = FIXTURES / "adapters/plain"
    half = tmp_path / "half"
    loratools.rescale(path, output=half, rescaling=Rescaling(block_weights="B01=0.5,B02=0"))
    before, after = (block_energies(open_adapter(where), {}) for where in (path, half))
    for old, new in zip(before, after, strict=True):
        times = {"B01": 0.5, "B02": 0.0}.get(old.block, 1.0)
        assert new.norm == times * present(old.norm)


def test_norms_of_a_dora_are_those_of_its_lora() -> None:
    adapter = open_adapter(FIXTURES / "adapters/dora")
    expected = math.fsum(float(effect.square().sum()) for effect in effects(adapter).values())
    found = block_energies(adapter, {})
    assert math.fsum(present(e.norm) ** 2 for e in found) == pytest.approx(expected, rel=1e-9)


class TestCommand:
    @pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
    def test_the_table_fits_into_80_columns(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        lines = CliRunner().invoke(cli, ["inspect", str(path), "--blocks"]).stdout.splitlines()
        begin = next(at for at, line in enumerate(lines) if line.startswith("block "))
        count = len(block_energies(open_adapter(path), {}))
        rows = lines[begin : begin + count + 1]
        assert max(map(len, rows)) <= 80
        assert "share %" in rows[0]
        assert all(re.search(r" \d+\.\d( |$)", row) for row in rows[1:])

    def test_a_table_with_one_block_beside_a_base_fits_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        adapter = write_adapter(tmp_path / "a", pair("model.layers.0.q", 4, 3))
        base = write_base(tmp_path / "b", {"model.layers.0.q.weight": torch.ones(4, 3)})
        arguments = ["inspect", str(adapter), "--blocks", "--base", str(base)]
        lines = CliRunner().invoke(cli, arguments).stdout.splitlines()
        begin = next(at for at, line in enumerate(lines) if line.startswith("block "))
        assert "▪" * 30 in lines[begin + 1]
        assert len(lines[begin + 1]) <= 80

    def test_json_has_the_blocks_if_they_are_asked_for(self) -> None:
        path = str(FIXTURES / "kohya/sdxl-dynamic")
        fields = json.loads(CliRunner().invoke(cli, ["inspect", path, "--json", "--blocks"]).stdout)
        assert [row["block"] for row in fields["blocks"]] == ["BASE", "IN04", "IN05", "M00"]
        assert fields["blocks"][0]["targets"] == 16
        assert fields["modules"] is None
        fields = json.loads(CliRunner().invoke(cli, ["inspect", path, "--json"]).stdout)
        assert fields["blocks"] is None
