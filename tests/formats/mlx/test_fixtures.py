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


def test_update_of_a_tied_embedding_leaves_the_head_tied(tmp_path: Path) -> None:
    """The head is not stored, and need not be: it is the changed embedding."""
    base = FIXTURES / "stories260k-bf16-sharded"
    report = loratools.merge(base, FIXTURES / "mlx" / "lora", output=tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in [tensor["name"] for tensor in report.to_json()["tensors"]]


def test_update_of_a_tied_embedding_is_added_to_a_heads_own(tmp_path: Path) -> None:
    """A LoRA of PEFT on the head alone comes on top: there the two differ by it."""
    base, head = FIXTURES / "stories260k", FIXTURES / "adapters" / "lm-head"
    for name, adapters in (("head", [head]), ("both", [FIXTURES / "mlx" / "lora", head])):
        loratools.merge(base, adapters, output=tmp_path / name)
    before = load_file(base / "model.safetensors")["lm_head.weight"].double()
    alone, both = (load_file(tmp_path / n / "model.safetensors") for n in ("head", "both"))
    shared = both["model.embed_tokens.weight"].double() - before
    own = alone["lm_head.weight"].double() - before
    found = both["lm_head.weight"].double() - before
    size = max(t.abs().max().item() for t in (before, shared, own))
    allowed = 8 * torch.finfo(torch.float32).eps * size
    torch.testing.assert_close(found, shared + own, rtol=0, atol=allowed)
