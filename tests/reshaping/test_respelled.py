"""What becomes of the parts of an adapter whose targets have other rows in the other layout."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA, Scaling
from loratools.deltas.placed import Run
from loratools.errors import UnsupportedError
from loratools.formats import decode, dialect_named
from loratools.io.source import Held
from loratools.names.crossing import Piece
from loratools.parts import Filed, ReplacedRows, Replacement, Update
from loratools.reshaping.compared import compare
from loratools.reshaping.converted import converted, encoded
from loratools.reshaping.respelled import Respelled, respelled
from tests.formats.bundles import decoded, lora
from tests.narrowing import present

QKV = "double_blocks.0.img_attn.qkv.weight"
PARTS = [f"transformer_blocks.0.attn.to_{part}.weight" for part in "qkv"]
ROWS = 4
CUT = tuple(Piece(name, (Run(ROWS * at, 0, ROWS),), ROWS) for at, name in enumerate(PARTS))
FUSED = {name: (Piece(QKV, (Run(0, ROWS * at, ROWS),), 3 * ROWS),) for at, name in enumerate(PARTS)}


def held(tensor: Tensor, dtype: str = "F32") -> Held:
    return Held("x", tensor, dtype)


def adapter(**fields: object) -> Adapter:
    return replace(decoded(lora("q")), **{"updates": {}, **fields})  # type: ignore[arg-type]


def factors(rows: int = ROWS, alpha: float = 1.0, seed: int = 0) -> LoRA:
    random = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(shape, generator=random).half() for shape in ((rows, 2), (2, 3)))
    return LoRA(held(up, "F16"), held(down, "F16"), Scaling(alpha, 2, "rank", "tensor"), (rows, 3))


def of_parts(**changes: object) -> Adapter:
    """An adapter with an update of each part, or this instead of some."""
    deltas = {
        name: changes.get(part, factors(seed=at))
        for at, (part, name) in enumerate(zip("qkv", PARTS, strict=True))
    }
    updates = {name: Update(delta) for name, delta in deltas.items() if delta is not None}  # type: ignore[arg-type]
    return adapter(updates=updates)


def reasons(found: Respelled) -> set[str]:
    return {*found.refused.values()}


def test_a_whole_tensor_is_cut_and_fused_again() -> None:
    whole = Replacement(held(torch.arange(36.0).reshape(12, 3)), is_trained=True)
    cut = respelled(adapter(replaced={QKV: whole}), {QKV: CUT})
    assert cut.names == {QKV: tuple(PARTS)}
    assert [present(cut.adapter.replaced[name]).source.shape for name in PARTS] == [(4, 3)] * 3
    again = respelled(cut.adapter, FUSED)
    assert torch.equal(again.adapter.replaced[QKV].source.read(), whole.source.read())


def test_a_whole_tensor_of_a_part_alone_is_refused() -> None:
    part = Replacement(held(torch.ones(4, 3)), is_trained=True)
    found = respelled(adapter(replaced={PARTS[1]: part}), {PARTS[1]: FUSED[PARTS[1]]})
    assert [*found.refused] == [PARTS[1]]
    assert "for some of the rows" in found.refused[PARTS[1]]


def test_new_rows_of_a_tensor_that_has_others_are_refused() -> None:
    rows = ReplacedRows((0, 1), held(torch.ones(2, 3)))
    same = Piece("x.weight", (Run(0, 0, 2),), 2)
    assert respelled(adapter(rows={"y": rows}), {"y": (same,)}).adapter.rows == {"x.weight": rows}
    assert respelled(adapter(rows={QKV: rows}), {QKV: CUT}).refused.keys() == {QKV}


def test_two_targets_with_the_same_rows_are_refused_by_name() -> None:
    twice = {PARTS[0]: FUSED[PARTS[0]], PARTS[1]: FUSED[PARTS[0]]}
    found = respelled(of_parts(v=None), twice)
    assert found.refused == {PARTS[1]: f"would be {QKV}, as {PARTS[0]} is"}


def test_parts_whose_sizes_do_not_fit_each_other_are_refused() -> None:
    wide = (Piece(QKV, (Run(0, 8, 8),), 24),)
    pieces = {PARTS[0]: FUSED[PARTS[0]], PARTS[1]: wide}
    found = respelled(of_parts(k=factors(8), v=None), pieces)
    assert found.refused == {PARTS[1]: f"has not the size that {PARTS[0]} has beside it"}


def test_a_part_with_zeros_is_left_out_and_named() -> None:
    fused = respelled(of_parts(k=None), FUSED).adapter
    found = respelled(fused, {QKV: CUT})
    assert (found.left_out, found.names) == ((PARTS[1],), {QKV: (PARTS[0], PARTS[2])})
    assert found.adapter.updates.keys() == {PARTS[0], PARTS[2]}


def test_dora_of_some_parts_is_refused_for_each_of_them() -> None:
    dora = DoRA(factors(), held(torch.ones(ROWS)), "row")
    found = respelled(of_parts(k=dora), FUSED)
    assert found.refused.keys() == {*PARTS}
    assert "the rows of the other parts would need magnitudes" in reasons(found).pop()
    column = DoRA(factors(3 * ROWS), held(torch.ones(3)), "column")
    found = respelled(adapter(updates={QKV: Update(column)}), {QKV: CUT})
    assert "sets norms over all rows" in found.refused[QKV]


def test_a_bias_is_cut_like_its_weight() -> None:
    bias = Diff(held(torch.arange(12.0)), Scaling(1.0, 1, "direct", "assumed"))
    pieces = {QKV: tuple(piece._replace(name=piece.name + ".bias") for piece in CUT)}
    found = respelled(adapter(updates={QKV: Update(bias)}), pieces)
    values = [
        present(u.delta.additive).dense_rows(0, ROWS).flatten()
        for u in found.adapter.updates.values()
    ]
    assert torch.equal(torch.cat(values), torch.arange(12.0).double())


@pytest.mark.parametrize(("dtype", "limit"), [(None, 2.0**-11), ("F32", 2.0**-24)])
def test_different_scalings_are_multiplied_in_rounded_once_and_reported(
    dtype: str | None, limit: float
) -> None:
    deltas = {
        f"transformer.{name}": Update(factors(alpha=alpha, seed=at))
        for at, (name, alpha) in enumerate(zip(PARTS, (1.0, 0.3, 3.0), strict=True))
    }
    deltas["transformer.single_transformer_blocks.0.proj_mlp.weight"] = Update(factors(16))
    comfyui = dialect_named("comfyui")
    source = adapter(updates=deltas, filed=Filed("diffusers"))
    found = converted(source, comfyui, None, ())
    read = decode(encoded(found, comfyui, "diffusers", dtype).bundle)
    comparison = compare(found.adapter, read)
    target = f"diffusion_model.{QKV}"
    assert found.folded == {target}
    assert limit / 64 < comparison.errors[target] <= limit
    assert {s.dtype for s in read.updates[target].delta.sources} == {dtype or "F16"}
    expected = torch.cat(
        [present(u.delta.additive).dense_rows(0, ROWS) for u in list(deltas.values())[:3]]
    )
    result = present(read.updates[target].delta.additive).dense_rows(0, 3 * ROWS)
    assert (result - expected).norm() <= limit * expected.norm()


def test_what_the_other_format_refuses_is_named_by_the_old_names() -> None:
    """ComfyUI computes a DoRA with a magnitude for each output otherwise than it was trained."""
    dora = DoRA(factors(), held(torch.ones(ROWS)), "row")
    updates = {f"transformer.{name}": Update(dora) for name in PARTS}
    updates["transformer.single_transformer_blocks.0.proj_mlp.weight"] = Update(factors(16))
    source = adapter(updates=updates, filed=Filed("diffusers"))
    comfyui = dialect_named("comfyui")
    with pytest.raises(UnsupportedError, match=r"3 of 4 targets.*transformer_blocks.0.attn.to_"):
        encoded(converted(source, comfyui, None, ()), comfyui, "diffusers", None)
