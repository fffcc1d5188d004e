"""A merge that takes an update out of rounded numbers says how many may not be what they were."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loratools
from tests.merged import pair, write_adapter, write_base

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_many_elements_are_named_as_can_differ(dtype: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 16, generator=generator).to(DTYPES[dtype])
    write_base(tmp_path / "base", {"m.a.weight": weight, "m.b.weight": weight.clone()})
    write_adapter(tmp_path / "adapter", pair("m.a", 8, 16))
    put = loratools.merge(tmp_path / "base", tmp_path / "adapter", output=tmp_path / "merged")
    assert not any("negative" in note for note in put.notes)
    back = loratools.merge(
        tmp_path / "merged", [tmp_path / "adapter"], weights=[-1], output=tmp_path / "back"
    )
    (note,) = back.notes
    assert f"out of 128 elements in {dtype}; where a merge had rounded them, up to all of" in note
    found = load_file(tmp_path / "back/model.safetensors")
    differs = {name: int((found[name] != weight).sum()) for name in found}
    assert 0 < differs["m.a.weight"] <= 128
    assert differs["m.b.weight"] == 0


def test_numbers_of_32_bits_get_no_note(tmp_path: Path) -> None:
    write_base(tmp_path / "base", {"m.a.weight": torch.ones(4, 6)})
    write_adapter(tmp_path / "adapter", pair("m.a", 4, 6))
    report = loratools.merge(
        tmp_path / "base", [tmp_path / "adapter"], weights=[-1], output=tmp_path / "out"
    )
    assert report.notes == ()
