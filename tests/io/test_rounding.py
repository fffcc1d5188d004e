"""Rounding is correct to the last bit, or unbiased; and its loss is measured."""

import math
from collections.abc import Iterator
from fractions import Fraction

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loratools.io.blocks import block_rows, spans
from loratools.io.rounding import (
    Rounding,
    compute_dtype,
    round_stochastically,
    round_to_nearest,
    rounds_to,
)
from loratools.io.source import Held
from loratools.merging.fidelity import Fidelity, measure
from loratools.testing import dtypes, normals, shapes
from tests.reference import FORMATS, rounded, rounded_fraction, smallest, spacing

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def nearest(value: Tensor, dtype: torch.dtype) -> Tensor:
    result = torch.empty(value.shape, dtype=dtype)
    round_to_nearest(value, result)
    return result


def adversarial(dtype: torch.dtype) -> Iterator[float]:
    """Ties, and their nearest float64 neighbours, and those of float32: where a rounding to
    float32 on the way lands on the tie; at ordinary sizes, among subnormals, at the largest.
    """
    bits, least, largest = FORMATS[dtype]
    last = smallest(dtype)
    ordinary = [(2**bits - 1) * 2.0**-bits, 1.0, 1 + 2.0 ** (1 - bits), 3.25, 2.0**least]
    subnormal = [0.0, last, 2 * last, 3 * last, 2.0**least - last]
    for number in [*ordinary, *subnormal, largest, largest - 2.0 ** (-bits) * largest]:
        exact = float(rounded(torch.tensor([number], dtype=torch.float64), dtype).double())
        step = float(spacing(torch.tensor([exact], dtype=torch.float64), dtype))
        for tie in (exact + step / 2, exact - step / 2, exact):
            for nudge in (0.0, 2.0**-52, 2.0**-40, 2.0**-26, 2.0**-25, 2.0**-24, 2.0**-23):
                for sign in (1, -1):
                    yield tie * (1 + sign * nudge)
                    yield -tie * (1 + sign * nudge)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ties_and_their_neighbours_round_as_rational_numbers_do(dtype: torch.dtype) -> None:
    values = list(adversarial(dtype))
    result = nearest(torch.tensor([values], dtype=torch.float64), dtype)[0].tolist()
    largest = FORMATS[dtype][2]
    for value, actual in zip(values, result, strict=True):
        expected = rounded_fraction(Fraction(value), dtype)
        if abs(expected) > Fraction(largest):
            assert actual == math.copysign(math.inf, value), value.hex()
        else:
            assert Fraction(actual) == expected, value.hex()
            assert math.copysign(1, actual) == math.copysign(1, value), value.hex()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(values=st.lists(st.floats(allow_nan=False), min_size=1, max_size=50))
def test_any_float64_is_correctly_rounded(dtype: torch.dtype, values: list[float]) -> None:
    value = torch.tensor([values], dtype=torch.float64)
    finite = value.isfinite()
    result = nearest(value, dtype)
    assert torch.equal(result[finite], rounded(value[finite], dtype))
    assert torch.equal(result[~finite].double(), value[~finite])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_stays_nan(dtype: torch.dtype) -> None:
    assert nearest(torch.tensor([[math.nan]], dtype=torch.float64), dtype).isnan().all()


@pytest.mark.parametrize("bits", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_number_rounds_to_itself(bits: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(bits).reshape(256, 256)
    finite = every[~every.isnan()].reshape(1, -1)
    assert torch.equal(nearest(finite.double(), bits).view(torch.int16), finite.view(torch.int16))


class TestStochastically:
    """Up or down to a neighbour, with a mean that is exact."""

    @staticmethod
    def drawn(value: Tensor, dtype: torch.dtype, seed: int = 0, name: str = "w") -> Tensor:
        result = torch.empty(value.shape, dtype=dtype)
        round_stochastically(seed, name)(value, result, 0)
        return result

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @given(values=st.lists(st.floats(-60000, 60000), min_size=1, max_size=50))
    def test_result_is_one_of_both_neighbours(
        self, dtype: torch.dtype, values: list[float]
    ) -> None:
        value = torch.tensor([values], dtype=torch.float64)
        result = self.drawn(value, dtype).double()
        quantum = spacing(value, dtype)
        below, above = torch.floor(value / quantum) * quantum, torch.ceil(value / quantum) * quantum
        assert ((result == below) | (result == above)).all()

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @given(values=st.lists(st.floats(-60000, 60000), min_size=1, max_size=50))
    def test_what_the_dtype_has_is_left_as_it_is(
        self, dtype: torch.dtype, values: list[float]
    ) -> None:
        exact = rounded(torch.tensor([values], dtype=torch.float64), dtype)
        assert torch.equal(self.drawn(exact.double(), dtype), exact)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("share", [0.03125, 0.25, 0.5, 0.9375])
    @pytest.mark.parametrize("at", [1.0, -1.0, 3.0, 0.0, 2.0**-14, -(2.0**-24)], ids=str)
    def test_mean_is_the_value(self, dtype: torch.dtype, share: float, at: float) -> None:
        """Of n = 2^16 draws, each up with probability p, the share of ups is off by t or more with
        probability of at most 2·exp(-2nt²) (Hoeffding, 1963): 1e-12 for t = 0.0147. The values of
        the test are exact neighbours and p has few bits, so nothing else is rounded.
        """
        count = 2**16
        start = rounded(torch.tensor([at], dtype=torch.float64), dtype).double()
        step = spacing(start, dtype) * math.copysign(1, at)  # away from zero
        value = (start + share * step).expand(1, count).contiguous()
        ups = (self.drawn(value, dtype).double() - start) / step
        assert set(ups.flatten().tolist()) <= {0.0, 1.0}
        assert abs(float(ups.mean()) - share) < math.sqrt(math.log(2e12) / (2 * count))

    def test_neighbouring_elements_are_independent(self) -> None:
        """The number of ups among pairs, p = 1/2: both up in 1/4 of them, by the same bound."""
        ups = self.drawn(torch.full((1, 2**16), 1 + 2.0**-8).double(), torch.bfloat16) > 1
        for lag in (1, 2, 3, 4, 64, 1024):
            both = float((ups[0, lag:] & ups[0, :-lag]).double().mean())
            assert abs(both - 0.25) < math.sqrt(math.log(2e12) / (2**15 - lag)), lag

    @given(
        cuts=st.lists(st.integers(0, 199), unique=True, max_size=8).map(sorted),
        seed=st.integers(0, 2**64),
    )
    def test_draws_depend_on_the_position_alone(self, cuts: list[int], seed: int) -> None:
        value = torch.randn(1, 200, dtype=torch.float64)
        draw = round_stochastically(seed, "w")
        whole = torch.empty(1, 200, dtype=torch.bfloat16)
        draw(value, whole, 0)
        parts = torch.empty(1, 200, dtype=torch.bfloat16)
        for begin, end in zip([0, *cuts], [*cuts, 200], strict=True):
            part = torch.empty(1, end - begin, dtype=torch.bfloat16)
            draw(value[:, begin:end], part, begin)
            parts[:, begin:end] = part
        assert torch.equal(whole, parts)

    def test_seed_and_name_choose_the_draws(self) -> None:
        value = torch.randn(1, 1000, dtype=torch.float64)
        one = self.drawn(value, torch.bfloat16, 1, "w")
        assert torch.equal(one, self.drawn(value, torch.bfloat16, 1, "w"))
        assert not torch.equal(one, self.drawn(value, torch.bfloat16, 2, "w"))
        assert not torch.equal(one, self.drawn(value, torch.bfloat16, 1, "v"))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_beyond_the_largest_is_infinite_and_nan_stays(self, dtype: torch.dtype) -> None:
        value = torch.tensor([[math.inf, -math.inf, math.nan]], dtype=torch.float64)
        result = self.drawn(value, dtype)[0]
        assert result[:2].tolist() == [math.inf, -math.inf]
        assert result[2].isnan()

    def test_seed_makes_a_rounding_stochastic(self) -> None:
        assert Rounding().of("w") is round_to_nearest
        value, result = torch.full((1, 64), 1 + 2.0**-9).double(), torch.empty(1, 64).bfloat16()
        Rounding(seed=0).of("w")(value, result, 0)
        assert 0 < int((result > 1).sum()) < 64


@pytest.mark.parametrize(
    ("stored", "output", "dtype"),
    [
        ("BF16", "BF16", torch.float32),
        ("F16", "BF16", torch.float32),
        ("F32", "BF16", torch.float64),
        ("F16", "F16", torch.float64),
        ("BF16", "F16", torch.float64),
        ("F32", "F32", torch.float64),
        ("BF16", "F32", torch.float64),
        ("F64", "F64", torch.float64),
    ],
)
def test_weights_are_computed_with_wide_enough(
    stored: str, output: str, dtype: torch.dtype
) -> None:
    assert compute_dtype(stored, output) == dtype


@given(shape=shapes(most=40), begin=st.integers(0, 50), count=st.integers(0, 50))
def test_blocks_cover_every_row_once(shape: tuple[int, ...], begin: int, count: int) -> None:
    step = block_rows(shape)
    assert step >= 1
    rows = [row for span in spans(begin, begin + count, step) for row in range(*span)]
    assert rows == list(range(begin, begin + count))


@given(
    before=st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6),
    update=st.lists(st.floats(-1, 1, width=32), min_size=6, max_size=6),
)
def test_fidelity_holds_the_sums_of_realised_and_intended_update(
    before: list[float], update: list[float]
) -> None:
    """Each is a sum of six products; computed otherwise, it is off by some 2^-50 of its terms."""
    start = torch.tensor(before, dtype=torch.float64).reshape(2, 3)
    value = start + torch.tensor(update, dtype=torch.float64).reshape(2, 3)
    result = rounded(value, torch.bfloat16)
    intended, realised = value - start, result.double() - start
    found = measure(start, result, torch.stack([intended, intended]), moved=True)
    terms = float((intended.abs() + realised.abs()).square().sum())
    assert found.error == pytest.approx(
        float((realised - intended).square().sum()), abs=terms * 2.0**-48
    )
    assert found.intended == pytest.approx(float(intended.square().sum()), abs=terms * 2.0**-48)
    assert found.product == pytest.approx(float((realised * intended).sum()), abs=terms * 2.0**-48)


def test_relative_error_and_cosine_by_hand() -> None:
    """An intended update (3, 4), of which (3, 0) was realised: 16 of 25 are lost, and the cosine
    is 9 / (3 · 5).
    """
    fidelity = Fidelity(error=16.0, intended=25.0, product=9.0)
    assert fidelity.relative_error == 4 / 5
    assert fidelity.cosine == pytest.approx(3 / 5, rel=2.0**-50)


def test_update_of_zero_is_wholly_kept_and_a_lost_one_has_no_direction() -> None:
    assert (Fidelity().relative_error, Fidelity().cosine) == (0.0, 1.0)
    lost = Fidelity(error=25.0, intended=25.0, product=0.0)
    assert (lost.relative_error, lost.cosine) == (1.0, 0.0)


def test_fidelities_add_up() -> None:
    one, two = Fidelity(1.0, 2.0, 3.0), Fidelity(10.0, 20.0, 30.0)
    assert one + two == Fidelity(11.0, 22.0, 33.0)


@given(data=st.data(), shape=shapes(), stored=dtypes())
def test_source_rounds_to_its_own_rounding_and_to_nothing_else(
    data: st.DataObject, shape: tuple[int, ...], stored: str
) -> None:
    source = data.draw(normals("source", shape, "F32"))
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    half = source.tensor.to(dtype.get(stored, torch.float64))
    assert rounds_to(source, Held("half", half, stored))
    other = half.clone()
    other.view(-1)[0] += 1
    assert not rounds_to(source, Held("other", other, stored))


def test_codes_and_other_shapes_are_no_rounding() -> None:
    ones = Held("ones", torch.ones(2, 2), "F32")
    assert not rounds_to(ones, Held("flat", torch.ones(4), "F32"))
    assert not rounds_to(Held("codes", torch.ones(2, 2, dtype=torch.int8), "I8"), ones)


def test_a_wrong_shape_is_caught_at_the_call() -> None:
    """By jaxtyping, as the conftest asks for: `rows columns` must agree between arguments."""
    with pytest.raises(jaxtyping.TypeCheckError):
        measure(torch.ones(2, 3), torch.ones(3, 2), torch.ones(2, 2, 3), moved=True)
