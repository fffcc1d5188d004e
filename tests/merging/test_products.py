"""The loop that torch runs without Python computes what the pieces of `edit.py` do."""

import warnings
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
    for loop in (products._add, products._add_to_16_bits):
        assert isinstance(loop, torch.jit.ScriptFunction)


@pytest.mark.parametrize("category", [DeprecationWarning, FutureWarning])
def test_what_torch_says_of_its_compiler_is_not_the_users_concern(
    category: type[Warning], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its category was the first until torch 2.13, and is the second since."""

    def script(loop: object) -> object:
        warnings.warn("`torch.jit.script` is deprecated.", category, stacklevel=2)
        return loop

    monkeypatch.setattr(torch.jit, "script", script)
    assert products._compiled(products._loop) is products._loop


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 9),
    piece=st.integers(1, 200),
    dtypes=st.sampled_from(
        ["BF16 BF16", "F16 F16", "F32 F32", "F64 F64", "F32 BF16", "F64 F16", "F16 BF16"]
    ),
    strengths=st.lists(st.sampled_from([1.0, -0.5, 2.0**-40]), min_size=1, max_size=3),
    size=st.sampled_from([1.0, 2.0**60, 1e-30, 0.0]),
    seed=st.integers(0, 2**31),
)
def test_products_are_added_as_by_single_operations(
    rows: int,
    columns: int,
    piece: int,
    dtypes: str,
    strengths: list[float],
    size: float,
    seed: int,
) -> None:
    random = torch.Generator().manual_seed(seed)
    stored, output = dtypes.split()
    weight = held(torch.randn(rows, columns, generator=random), stored)
    size = min(size, 1.0) if output == "F16" else size  # which has no larger numbers than 65504
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
                patch.setattr(products, "_add_to_16_bits", products._loop_to_16_bits)
            if variant == "pieces":
                patch.setattr(LoRA, "bind", bound_as_function)
            found.append(changed_and_measured(weight, *changes, dtype=output, cuts=cuts))
    for result, fidelity in found[1:]:
        assert torch.equal(result, found[0][0])
        tolerance = 1e-5 * fidelity.intended
        assert sums(fidelity) == pytest.approx(sums(found[0][1]), rel=1e-5, abs=tolerance)
        assert fidelity.moved == found[0][1].moved


@pytest.mark.parametrize(("stored", "output", "digits"), [("F16", "F16", 11), ("F32", "BF16", 8)])
def test_a_sum_of_products_is_rounded_once(stored: str, output: str, digits: int) -> None:
    """It lies so little above a tie that as a float32 it would be the tie, and be rounded down."""
    tie = 2.0**-digits
    lora = LoRA(
        Held("up", torch.ones(3, 2), "F32"),
        Held("down", torch.tensor([[tie], [2.0**-40]]).expand(2, 4), "F32"),
        Scaling(2.0, 2, "rank", "config"),
        (3, 4),
    )
    result, fidelity = changed_and_measured(
        held(torch.ones(3, 4), stored), (lora, 1.0), dtype=output
    )
    assert torch.equal(result.double(), torch.full((3, 4), 1 + 2 * tie, dtype=torch.float64))
    assert fidelity.moved


def test_a_base_in_float64_keeps_its_digits_until_it_is_rounded() -> None:
    lora = LoRA(
        Held("up", torch.full((3, 1), -(2.0**-28)), "F32"),
        Held("down", torch.ones(1, 4), "F32"),
        Scaling(1.0, 1, "rank", "config"),
        (3, 4),
    )
    weight = torch.full((3, 4), 1 + 2.0**-11 + 2.0**-26, dtype=torch.float64)
    result, _ = changed_and_measured(held(weight, "F64"), (lora, 1.0), dtype="F16")
    assert torch.equal(result.float(), torch.full((3, 4), 1 + 2.0**-10))


@pytest.mark.parametrize(("stored", "output"), [("F16", "F16"), ("F32", "BF16")])
def test_a_product_that_rounding_loses_moves_nothing(stored: str, output: str) -> None:
    lora = LoRA(
        Held("up", torch.full((3, 1), 2.0**-20), "F32"),
        Held("down", torch.ones(1, 4), "F32"),
        Scaling(1.0, 1, "rank", "config"),
        (3, 4),
    )
    weight = torch.full((3, 4), 1 + 2.0**-7)
    result, fidelity = changed_and_measured(held(weight, stored), (lora, 1.0), dtype=output)
    assert torch.equal(result.float(), weight)
    assert not fidelity.moved


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
