"""Adapters that mlx-lm made: what a merge changes is what mlx-lm's own `fuse` changed."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loratools

FIXTURES = Path(__file__).parents[3] / "fixtures"
NAMES = sorted(path.name for path in (FIXTURES / "mlx").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_merge_changes_what_mlx_changed(name: str, tmp_path: Path) -> None:
    folder, base = FIXTURES / "mlx" / name, FIXTURES / "stories260k"
    expected = json.loads((folder / "expected.json").read_text())
    data = (folder / "adapters.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == expected["sha256"]
    assert len(load_file(folder / "adapters.safetensors")) == expected["tensors"]
    loratools.merge(base, folder, output=tmp_path / "merged")
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    changes = {key: after[key].double() - before[key].double() for key in before}
    # MLX does not load the head of a tied base, so it changes the embedding for both.
    assert torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])
    del changes["lm_head.weight"]
    found = {key: change.norm().item() for key, change in changes.items() if change.any()}
    assert found.keys() == expected["merged_change_norms"].keys()
    for key, norm in expected["merged_change_norms"].items():
        # MLX computes in float32, in which the sums for each number are rounded a few times.
        size = before[key].double().norm().item() + norm
        allowed = 16 * torch.finfo(torch.float32).eps * size
        assert found[key] == pytest.approx(norm, rel=0, abs=allowed)
