"""The loop that torch runs without Python computes what the pieces of `edit.py` do."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from loratools import MergeOptions, merge, open_adapter
from loratools.deltas import Apply, Span
from loratools.deltas.lora import LoRA, Scaling
from loratools.io.source import Held
from loratools.merging import edit, products
from loratools.merging.fidelity import Fidelity
from tests.hostile.checkpoints import lora, write_adapter
from tests.merging.computing import DTYPES, changed_and_measured


def held(values: torch.Tensor, dtype: str) -> Held:
    return Held("weight", values.to(DTYPES[dtype]), dtype)


def sums(fidelity: Fidelity) -> tuple[float, float, float]:
    """Summed over pieces in their own dtype by the loop, and in float64 by single operations."""
    return fidelity.error, fidelity.intended, fidelity.product


def test_the_loop_is_compiled() -> None:
    """Else threads wait for each other. It also fails where torch has no TorchScript any more."""
    assert isinstance(products._add, torch.jit.ScriptFunction)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 9),
    piece=st.integers(1, 200),
    stored=st.sampled_from(["BF16", "F32", "F64"]),
    strengths=st.lists(st.sampled_from([1.0, -0.5, 2.0**-40]), min_size=1, max_size=3),
    size=st.sampled_from([1.0, 2.0**60, 1e-30, 0.0]),
    seed=st.integers(0, 2**31),
)
def test_products_are_added_as_by_single_operations(
    rows: int,
    columns: int,
    piece: int,
    stored: str,
    strengths: list[float],
    size: float,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = held(torch.randn(rows, columns, generator=random), stored)
    up = Held("up", size * torch.randn(rows, 2, generator=random), "F32")
    down = Held("down", torch.randn(2, columns, generator=random), "F32")
    lora = LoRA(up, down, Scaling(2.0, 2, "rank", "config"), (rows, columns))
    changes = [(lora, strength) for strength in strengths]
    cuts = [rows // 2] if rows > 1 else []

    def bound_as_function(delta: LoRA, span: Span, strength: float) -> Apply:
        return bind(delta, span, strength).__call__

    bind = LoRA.bind
    found = []
    for variant in ("compiled", "python", "pieces"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edit, "PIECE_ELEMENTS", piece)
            if variant == "python":
                patch.setattr(products, "_add", products._loop)
            if variant == "pieces":
                patch.setattr(LoRA, "bind", bound_as_function)
            found.append(changed_and_measured(weight, *changes, cuts=cuts))
    for result, fidelity in found[1:]:
        assert torch.equal(result, found[0][0])
        tolerance = 1e-5 * fidelity.intended
        assert sums(fidelity) == pytest.approx(sums(found[0][1]), rel=1e-5, abs=tolerance)
        assert fidelity.moved == found[0][1].moved


def test_results_that_are_rounded_twice_are_left_to_the_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A float16 of a float64 goes through float32, which needs `round_to_nearest`."""
    monkeypatch.setattr(products, "_add", None)
    lora = LoRA(
        Held("up", torch.ones(3, 1), "F32"),
        Held("down", torch.ones(1, 3), "F32"),
        Scaling(1.0, 1, "rank", "config"),
        (3, 3),
    )
    result, _ = changed_and_measured(held(torch.ones(3, 3), "F16"), (lora, 1.0))
    assert torch.equal(result, torch.full((3, 3), 2, dtype=torch.float16))
    with pytest.raises(TypeError):
        changed_and_measured(held(torch.ones(3, 3), "BF16"), (lora, 1.0))


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_values_are_read_in_the_dtype_that_they_are_stored_in(
    tmp_path: Path, stored: torch.dtype, dtype: Literal["bfloat16", "float32"] | None
) -> None:
    """Also where the output has another dtype of the same size."""
    weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).to(stored)
    (tmp_path / "base").mkdir()
    save_file({"q.weight": weight}, tmp_path / "base/model.safetensors", {"format": "pt"})
    adapter = write_adapter(tmp_path / "adapter", lora("q", (16, 8)), target_modules=["q"])
    merge(tmp_path / "base", adapter, output=tmp_path / "merged", options=MergeOptions(dtype=dtype))
    lora_in = open_adapter(adapter).updates["q.weight"].delta.additive
    assert lora_in is not None
    wanted = (weight.double() + lora_in.dense_rows(0, 16)).float()
    found = load_file(tmp_path / "merged/model.safetensors")["q.weight"]
    assert found.dtype == (stored if dtype is None else getattr(torch, dtype))
    assert torch.allclose(found.float(), wanted, rtol=2.0**-8, atol=1e-6)


def test_a_block_that_is_measured_again_is_computed_from_the_stored_values(tmp_path: Path) -> None:
    """Its result is in the memory that the stored values were read into."""
    weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    (tmp_path / "base").mkdir()
    save_file({"q.weight": weight}, tmp_path / "base/model.safetensors", {"format": "pt"})
    adapter = write_adapter(tmp_path / "adapter", lora("q", (16, 8)), target_modules=["q"])
    report = merge(tmp_path / "base", adapter, output=tmp_path / "merged", weights=[2.0**60])
    update = open_adapter(adapter).updates["q.weight"].delta.additive
    assert update is not None
    wanted = (weight.double() + 2.0**60 * update.dense_rows(0, 16)).bfloat16()
    assert torch.equal(load_file(tmp_path / "merged/model.safetensors")["q.weight"], wanted)
    assert report.total is not None
    assert report.total.kept == 1.0
