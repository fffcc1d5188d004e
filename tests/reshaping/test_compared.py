"""The error that is reported of a conversion is that of the matrices, and 0 only if it is exact."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas import Delta
from loratools.deltas.dora import DoRA
from loratools.deltas.lora import LoRA
from loratools.deltas.stacked import Stacked
from loratools.deltas.tucker import Tucker
from loratools.errors import UnsupportedError
from loratools.io.computed import cast
from loratools.io.source import Held, Source
from loratools.parts import ReplacedRows, Replacement, Update
from loratools.reshaping.compared import compare
from loratools.reshaping.factors import scaling_of
from loratools.testing import dtypes, loras
from tests.adapters import product
from tests.formats.bundles import decoded, lora
from tests.narrowing import present

SHAPE = (6, 5)


def adapter(delta: Delta, **others: object) -> Adapter:
    """An adapter with one update."""
    empty = replace(decoded(lora("q")), updates={"q.weight": Update(delta)})
    return replace(empty, **others)  # type: ignore[arg-type]


def relative(one: Tensor, other: Tensor) -> float:
    error: float = ((one - other).norm() / one.norm()).item()
    return error


def padded(source: Source, rows: int, columns: int) -> Held:
    tensor = source.read()
    new = torch.zeros(rows, columns, dtype=tensor.dtype)
    new[: tensor.shape[0], : tensor.shape[1]] = tensor
    return Held("padded", new, source.dtype)


@given(delta=loras(SHAPE))
def test_an_adapter_is_exactly_what_it_is(delta: LoRA) -> None:
    found = compare(adapter(delta), adapter(delta))
    assert found.errors == {"q.weight": 0.0}
    assert (found.worst, found.folded, found.padded) == (None, (), ())


@given(delta=loras(SHAPE), more=st.integers(1, 3))
def test_zeros_beside_the_factors_change_nothing(delta: LoRA, more: int) -> None:
    rank = delta.rank + more
    scaling = scaling_of(delta.scaling.value, rank, "direct")
    up, down = padded(delta.up, 6, rank), padded(delta.down, rank, 5)
    found = compare(adapter(delta), adapter(LoRA(up, down, scaling, SHAPE)))
    assert found.errors == {"q.weight": 0.0}
    assert found.padded == ("q.weight",)


@given(delta=loras(SHAPE), dtype=dtypes())
def test_the_error_of_rounding_is_that_of_the_matrices(delta: LoRA, dtype: str) -> None:
    rounded = replace(delta, up=cast(delta.up, dtype), down=cast(delta.down, dtype))
    found = compare(adapter(delta), adapter(rounded)).errors["q.weight"]
    expected = relative(product(delta), product(rounded))
    # The difference of two matrices has itself an error, of some last bits of float64.
    assert found == pytest.approx(expected, rel=1e-6, abs=64 * 2.0**-52)


def test_rounding_of_the_smallest_numbers_is_scaled_with_them() -> None:
    smallest = 2.0**-24  # of float16
    up, down = torch.full((6, 2), 1.4 * smallest), torch.ones(2, 5)
    delta = LoRA(
        Held("up", up, "F32"), Held("down", down, "F32"), scaling_of(4.0, 2, "direct"), SHAPE
    )
    rounded = replace(delta, up=cast(delta.up, "F16"))
    found = compare(adapter(delta), adapter(rounded)).errors["q.weight"]
    assert found == pytest.approx(0.4 / 1.4)


def tucker(dtype: str) -> Delta:
    up, core, down = (cast(one, dtype) for one in held((6, 2), (2, 2, 3, 3), (2, 5)))
    return Tucker(up, core, down, scaling_of(0.5, 2, "rank"))


def stacked(dtype: str) -> Delta:
    up, down = (cast(one, dtype) for one in held((3, 6, 2), (3, 2, 5)))
    return Stacked(up, down, scaling_of(0.5, 2, "rank"), (3, 6, 5))


def held(*shapes: tuple[int, ...]) -> list[Held]:
    random = torch.Generator().manual_seed(0)
    return [Held(str(shape), torch.rand(shape, generator=random), "F32") for shape in shapes]


@pytest.mark.parametrize("made", [tucker, stacked])
def test_the_error_of_several_factors_is_that_of_their_product(
    made: Callable[[str], Delta],
) -> None:
    delta, rounded = made("F32"), made("F16")
    found = compare(adapter(delta), adapter(rounded)).errors["q.weight"]
    rows = [present(d.additive).dense_rows(0, delta.shape[0]) for d in (delta, rounded)]
    assert found == pytest.approx(relative(*rows), rel=1e-9)


@given(delta=loras(SHAPE), factor=st.sampled_from([2.0**-10, 0.5, -1.0, 0.0, 1.01]))
def test_more_than_rounding_is_refused(delta: LoRA, factor: float) -> None:
    scaling = replace(delta.scaling, alpha=delta.scaling.alpha * factor)
    with pytest.raises(UnsupportedError, match=r"q.weight would be changed by .* of its norm"):
        compare(adapter(delta), adapter(replace(delta, scaling=scaling)))


def test_the_limit_is_what_rounding_can_do_and_no_more() -> None:
    """Half of a last bit, which is 2⁻²³ for 1 in float32; and nothing where no bit has changed."""
    exact = Held("up", torch.tensor([[1 + 2.0**-24]], dtype=torch.float64), "F64")
    ones = Held("ones", torch.ones(1, 1), "F32")
    delta = LoRA(exact, ones, scaling_of(1.0, 1, "rank"), (1, 1))
    rounded = compare(adapter(delta), adapter(replace(delta, up=ones)))
    assert present(rounded.worst)[1] == pytest.approx(2.0**-24)
    next_one = Held("next", torch.tensor([[1 + 2.0**-22]]), "F32")
    scaling = scaling_of(1 + 2.0**-24, 1, "rank")
    for one, other in (
        (delta, replace(delta, up=next_one)),
        (replace(delta, up=ones), replace(delta, up=ones, scaling=scaling)),
    ):
        with pytest.raises(UnsupportedError, match="of its norm"):
            compare(adapter(one), adapter(other))


def test_a_scaling_that_is_in_the_factors_is_named() -> None:
    ones = Held("ones", torch.ones(3, 3), "F32")
    delta = LoRA(ones, ones, scaling_of(3.0, 3, "rank"), (3, 3))
    folded = delta.with_scaling(scaling_of(1.0, 3, "rank"), 3.0)
    found = compare(adapter(delta), adapter(folded))
    assert (found.folded, found.worst) == (("q.weight",), None)


@pytest.mark.parametrize("other", ["row", "column"])
def test_a_magnitude_belongs_to_rows_or_to_columns(other: str) -> None:
    ones = Held("ones", torch.ones(3, 3), "F32")
    delta = LoRA(ones, ones, scaling_of(1.0, 3, "rank"), (3, 3))
    magnitude = Held("magnitude", torch.ones(3), "F32")
    dora = DoRA(delta, magnitude, "row")
    turned = replace(dora, axis=other)  # type: ignore[arg-type]
    if other == "row":
        assert compare(adapter(dora), adapter(turned)).worst is None
    else:
        with pytest.raises(UnsupportedError, match="an update of another kind"):
            compare(adapter(dora), adapter(turned))
    with pytest.raises(UnsupportedError, match="an update of another kind"):
        compare(adapter(dora), adapter(delta))
    lost = replace(dora, magnitude=Held("magnitude", torch.tensor([1.0, 1.0, 2.0]), "F32"))
    with pytest.raises(UnsupportedError, match="of its norm"):
        compare(adapter(dora), adapter(lost))


def test_whole_tensors_and_rows_are_compared_too() -> None:
    ones = Held("ones", torch.ones(3, 3), "F32")
    delta = LoRA(ones, ones, scaling_of(1.0, 3, "rank"), (3, 3))
    others = Held("others", torch.full((3, 3), 2.0), "F32")
    whole = adapter(delta, replaced={"head.weight": Replacement(ones, is_trained=True)})
    rows = adapter(delta, rows={"embed.weight": ReplacedRows((1, 5, 7), ones)})
    assert compare(whole, whole).errors["head.weight"] == 0
    assert compare(rows, rows).errors["embed.weight"] == 0
    for one, other, what in (
        (whole, adapter(delta), "head.weight would be lost"),
        (adapter(delta), whole, "head.weight would be added"),
        (whole, adapter(delta, replaced={"head.weight": Replacement(others, True)}), "of its norm"),
        (rows, adapter(delta, rows={"embed.weight": ReplacedRows((1, 5, 8), ones)}), "other rows"),
        (rows, adapter(delta, rows={"embed.weight": ReplacedRows((1, 5, 7), others)}), "its norm"),
    ):
        with pytest.raises(UnsupportedError, match=what):
            compare(one, other)
