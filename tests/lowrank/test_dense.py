"""Leading factors are nearly the best of their rank, and their certificate is exact."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.errors import NonFiniteError
from loratools.lowrank import dense, krylov
from loratools.lowrank import row_blocks as rows
from loratools.lowrank.dense import Leading, leading
from loratools.lowrank.krylov import Ritz, _Space
from loratools.lowrank.ranks import RankRule, Wanted
from loratools.lowrank.row_blocks import RowBlocks
from tests.devices import device_apart

EPS = 2**-52
TOLERANCE = 1e-4
#: What `leading` allows an iteration in float32, of ‖X‖².
NOISE = 5e-7


def with_values(
    values: torch.Tensor | Sequence[float],
    m: int,
    n: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """A matrix of random singular vectors, and these values before it was rounded."""
    generator = torch.Generator().manual_seed(seed)
    exact = torch.as_tensor(values, dtype=torch.float64)
    left = torch.randn(m, len(exact), generator=generator, dtype=torch.float64)
    right = torch.randn(n, len(exact), generator=generator, dtype=torch.float64)
    matrix: torch.Tensor = torch.linalg.qr(left).Q * exact @ torch.linalg.qr(right).Q.T
    return matrix.to(dtype)


def energies(matrix: torch.Tensor) -> torch.Tensor:
    """σ², by LAPACK in float64."""
    values: torch.Tensor = torch.linalg.svdvals(matrix.double())
    return values.square()


def squared_error(matrix: torch.Tensor, found: Leading, rank: int | None = None) -> float:
    return (matrix.double() - found.up[:, :rank] @ found.down[:rank]).square().sum().item()


def rounding(matrix: torch.Tensor) -> float:
    """Of sums of squares of projections on vectors that are orthonormal to max(m, n) eps."""
    return 8 * max(matrix.shape) * EPS * matrix.double().square().sum().item()


# --- small matrices: exact -----------------------------------------------------------------------

sizes = st.integers(1, 24)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    m, n = draw(sizes), draw(sizes)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    rank = draw(st.integers(0, min(m, n)))
    left = torch.randn(m, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, n, generator=generator, dtype=torch.float64)
    scale = 10.0 ** draw(st.integers(-30, 15))
    noise = draw(st.sampled_from([0.0, 1e-3]))
    matrix = left @ right + noise * torch.randn(m, n, generator=generator, dtype=torch.float64)
    matrix = (scale * matrix).to(dtype)
    return matrix.T.contiguous().T if draw(st.booleans()) else matrix


@given(matrix=matrices(), rank=st.integers(0, 30), data=st.data())
def test_small_matrices_are_decomposed_exactly(
    matrix: torch.Tensor, rank: int, data: st.DataObject
) -> None:
    found = leading(RowBlocks.of(matrix), Wanted(rank), seed=0)
    expected, bound = energies(matrix), rounding(matrix)
    assert found.exact
    assert found.missing == 0
    assert len(found.values) <= min(rank, *matrix.shape)
    assert found.total == pytest.approx(expected.sum().item(), abs=bound)
    assert found.kept == pytest.approx(expected[:rank].sum().item(), abs=bound)
    cut = data.draw(st.integers(0, len(found.values)))
    tail = found.total - found.values[:cut].square().sum().item()
    assert squared_error(matrix, found, cut) == pytest.approx(tail, abs=bound)


@given(matrix=matrices())
def test_both_factors_have_the_roots_of_the_values(matrix: torch.Tensor) -> None:
    found = leading(RowBlocks.of(matrix), Wanted(rank=24), seed=0)
    roots = found.values.sqrt()
    torch.testing.assert_close(found.down.norm(dim=1), roots, rtol=8 * 24 * EPS, atol=0)
    torch.testing.assert_close(found.up.norm(dim=0), roots, rtol=8 * 24 * EPS, atol=0)
    for gram in (found.up.T @ found.up, found.down @ found.down.T):
        # In cosines: eps of the largest value beside the smaller of the two.
        smaller = torch.minimum(found.values, found.values[:, None])
        bound = 8 * 24 * EPS * found.values[:1] / smaller
        assert ((gram / roots / roots[:, None]).fill_diagonal_(0).abs() <= bound).all()


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (300, 310), (1, 400), (400, 1)])
@pytest.mark.parametrize("wanted", [Wanted(rank=2), Wanted(loss=0.5), Wanted(loss=0.0), Wanted()])
def test_a_zero_matrix_has_no_values(shape: tuple[int, int], wanted: Wanted) -> None:
    found = leading(RowBlocks.of(torch.zeros(shape)), wanted, seed=0)
    assert (found.up.shape, found.down.shape) == ((shape[0], 0), (0, shape[1]))
    assert (found.total, found.kept, found.error) == (0, 0, 0)
    assert RankRule().choose([found.spectrum()]).ranks == (0,)


@pytest.mark.parametrize("size", [5, 300])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("wanted", [Wanted(rank=2), Wanted(loss=1e-7), Wanted(loss=0.0)])
def test_values_that_are_not_finite_are_refused(size: int, bad: float, wanted: Wanted) -> None:
    matrix = torch.ones(size, size)
    matrix[-1, 2] = bad
    with pytest.raises(NonFiniteError):
        leading(RowBlocks.of(matrix), wanted, seed=0)


# --- iteration -----------------------------------------------------------------------------------

FULL = 320
index = torch.arange(FULL, dtype=torch.float64)
SPECTRA = {
    "geometric": 0.9**index,
    "slow": (1 + index) ** -0.4,
    "flat": torch.ones(FULL),
    "nearly flat": 1 - 1e-3 * index / FULL,
    "a huge gap": torch.where(index < 3, 1e4, (1 + index) ** -0.3),
    "equal values at the cut": torch.where(index < 5, 3.0, torch.where(index < 20, 1.0, 0.1)),
    "a cluster around the cut": 1 - 0.01 * torch.tanh((index - 8) / 4) - index / (2 * FULL),
    "one value above a flat rest": torch.where(index < 1, 1.1, 1.0),
    "rounding noise beyond the rank": torch.where(index < 8, 1.0, 1e-3 * (1 - index / FULL / 2)),
    "the cut in the noise": torch.where(index < 4, 1.0, 1e-3 * (1 - index / FULL / 2)),
    "fewer ranks than wanted": torch.where(index < 3, 1.0 + index, 0.0),
}


def structured(name: str, m: int = 400, n: int = 320) -> torch.Tensor:
    """Matrices whose energy is in few places, or whose rows have much in common."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(m, n, generator=generator)
    matrix = torch.zeros(m, n)
    if name == "some columns":
        matrix[:, :20] = noise[:, :20]
    elif name == "some rows":
        matrix[-20:] = noise[-20:]
    elif name == "a block":
        matrix[30:60, 40:55] = noise[30:60, 40:55]
    elif name == "a diagonal":
        matrix.fill_diagonal_(1.0)
        matrix[:30] *= 3
    elif name == "columns of their own":
        matrix[torch.arange(m), torch.arange(m) % 24] = noise[:, 0]
    elif name == "equal rows":
        matrix = torch.rand(1, n, generator=generator).expand(m, n) + 0.02 * noise
    elif name == "equal entries":
        matrix = 1 / 3 + 0.01 * noise
    elif name == "one row of all":
        matrix[0] = torch.rand(n, generator=generator)
        matrix[1:3] = 0.03 * noise[1:3]
    return matrix


STRUCTURES = (
    "some columns",
    "some rows",
    "a block",
    "a diagonal",
    "columns of their own",
    "equal rows",
    "equal entries",
    "one row of all",
)


def is_nearly_best(matrix: torch.Tensor, found: Leading, rank: int) -> None:
    """As promised: both of what is kept and what is not."""
    expected = energies(matrix)
    total = expected.sum().item()
    best = expected[:rank].sum().item()
    allowed = max(TOLERANCE * min(best, 10 * (total - best)), NOISE * total)
    bound = rounding(matrix)
    assert best - allowed <= found.kept <= best + bound
    assert squared_error(matrix, found) == pytest.approx(total - found.kept, abs=bound)
    assert found.total == pytest.approx(total, abs=bound)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(320, 330), (500, 320)])
@pytest.mark.parametrize("rank", [1, 8])
def test_iteration_is_nearly_the_best_of_its_rank(
    name: str, shape: tuple[int, int], rank: int
) -> None:
    matrix = with_values(SPECTRA[name], *shape)
    found = leading(RowBlocks.of(matrix), Wanted(rank), seed=1)
    is_nearly_best(matrix, found, rank)
    # Else its blocks reach half the smaller side first, and all values are computed.
    assert not found.exact or name == "a cluster around the cut"
    # A matrix of rank 3 in float64 has more than that when it is rounded to float32.
    assert len(found.values) == rank
    assert (found.values.diff() <= 0).all()


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("rank", [1, 2, 8, 16])
def test_structure_does_not_mislead(name: str, rank: int) -> None:
    """Vectors that a dependent block is filled up with are not counted twice."""
    for matrix in (structured(name), structured(name).T):
        is_nearly_best(matrix, leading(RowBlocks.of(matrix), Wanted(rank), seed=1), rank)


@pytest.mark.parametrize("seed", range(6))
def test_iteration_ends_where_nothing_new_is_left(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where no rounding would be good enough."""
    monkeypatch.setattr(krylov, "_NOISE", 0)
    matrix = structured("some columns")
    found = leading(RowBlocks.of(matrix), Wanted(rank=8), seed=seed, tolerance=0.0)
    is_nearly_best(matrix, found, 8)
    assert not found.exact


def test_equal_values_beyond_those_wanted_are_told_apart_from_the_rest() -> None:
    """One random block has as much of each of twelve directions, and Krylov spaces no more."""
    matrix = with_values(torch.cat([torch.ones(12), torch.full((100,), 0.9)]), 400, 320)
    is_nearly_best(matrix, leading(RowBlocks.of(matrix), Wanted(rank=12), seed=0), 12)


def test_vectors_stay_orthonormal_when_nothing_new_is_left() -> None:
    """Residuals of converged vectors are rounding, most of it in what was found before."""
    space = _Space(RowBlocks.of(with_values(0.5**index, 400, 320)), torch.empty(0))
    space.extend(space.sketch(16, torch.Generator().manual_seed(0)))
    for _ in range(8):
        space.extend(space.residuals(16))
    gram = space.basis @ space.basis.T
    torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=64 * 2**-24)


@pytest.mark.parametrize("rank", [3, 8])
def test_the_estimate_is_not_far_below_what_is_missing(rank: int) -> None:
    for seed, name in enumerate(SPECTRA):
        matrix = with_values(SPECTRA[name], 400, 320, seed)
        found = leading(RowBlocks.of(matrix), Wanted(rank), seed=seed)
        best = energies(matrix)[:rank].sum().item()
        assert best - found.kept <= found.missing + NOISE * found.total


@settings(max_examples=15)
@given(
    decay=st.floats(0.05, 2),
    level=st.floats(0, 1),
    rank=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_iteration_is_nearly_the_best_for_any_decay(
    decay: float, level: float, rank: int, seed: int
) -> None:
    matrix = with_values((1 + index) ** -decay + level, 330, 320, seed)
    is_nearly_best(matrix, leading(RowBlocks.of(matrix), Wanted(rank), seed=seed), rank)


def test_a_matrix_of_low_rank_is_found_to_rounding() -> None:
    matrix = with_values([3, 2, 1], 400, 320, dtype=torch.float64)
    found = leading(RowBlocks.of(matrix), Wanted(rank=8), seed=0)
    assert not found.exact
    assert len(found.values) == 3
    # Vectors of the iteration are right to float32, and values to the square of that.
    assert found.error <= 320 * 2**-24
    squares = torch.tensor([9, 4, 1], dtype=torch.float64)
    lost = found.error**2 * found.total + rounding(matrix)
    torch.testing.assert_close(found.values.square(), squares, rtol=0, atol=lost)


@pytest.mark.parametrize("exponent", [-100, -60, 60])
def test_the_scale_of_a_matrix_does_not_matter(exponent: int) -> None:
    """Squares beyond float32 are iterated on in float64, so values agree to the tolerance."""
    matrix = with_values(SPECTRA["geometric"], 320, 320).double()
    wanted = Wanted(rank=8)
    one = leading(RowBlocks.of(matrix), wanted, seed=0)
    other = leading(RowBlocks.of(matrix * 2.0**exponent), wanted, seed=0)
    is_nearly_best(matrix, one, 8)
    is_nearly_best(matrix * 2.0**exponent, other, 8)


@pytest.mark.parametrize("name", ["geometric", "slow", "a huge gap", "fewer ranks than wanted"])
@pytest.mark.parametrize("loss", [0.5, 0.1, 1e-3, 1e-7])
def test_a_share_of_energy_is_kept_by_few_values(name: str, loss: float) -> None:
    matrix = with_values(SPECTRA[name], 340, 320)
    found = leading(RowBlocks.of(matrix), Wanted(loss=loss), seed=2)
    (rank,) = RankRule(energy=1 - loss).choose([found.spectrum()]).ranks
    kept = found.values[:rank].square().sum().item()
    assert kept >= (1 - loss) * found.total * (1 - 8 * EPS)
    best = energies(matrix).cumsum(0)
    # With one value less, even the best keep too little, or no more than the tolerance too much.
    before = best[rank - 2].item() if rank > 1 else 0.0
    assert before - max(TOLERANCE * before, NOISE * found.total) < (1 - loss) * found.total


def test_a_share_is_certified_whatever_the_iteration_found(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = with_values(SPECTRA["geometric"], 320, 320)
    wrong = Ritz(torch.eye(320, 3, dtype=torch.float64), None, 0.0, 1.0, 0.0)
    monkeypatch.setattr(dense, "ritz_vectors", lambda *_, **__: wrong)
    found = leading(RowBlocks.of(matrix), Wanted(loss=0.2), seed=0)
    assert found.kept >= 0.8 * found.total
    poor = leading(RowBlocks.of(matrix), Wanted(rank=3), seed=0)
    assert squared_error(matrix, poor) == pytest.approx(
        poor.total - poor.kept, abs=rounding(matrix)
    )


def test_as_many_values_as_a_multiple_takes_and_no_more_than_the_most() -> None:
    matrix = RowBlocks.of(with_values(SPECTRA["geometric"], 320, 320))
    free = leading(matrix, Wanted(loss=0.2), seed=0)
    assert len(leading(matrix, Wanted(loss=0.2, multiple_of=5), seed=0).values) == 10
    assert 5 < len(free.values) < 10
    assert len(leading(matrix, Wanted(loss=0.2, most=4), seed=0).values) == 4
    assert len(leading(matrix, Wanted(loss=0.2, rank=12), seed=0).values) == 12


# --- all values of a large matrix ----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(400, 300), (300, 400)])
@pytest.mark.parametrize("wanted", [Wanted(rank=250), Wanted(loss=0.0), Wanted(rank=999)])
def test_the_values_of_a_gram_matrix_are_exact(shape: tuple[int, int], wanted: Wanted) -> None:
    matrix = with_values(SPECTRA["slow"][:300], *shape)
    found = leading(RowBlocks.of(matrix), wanted, seed=0)
    expected, bound = energies(matrix), rounding(matrix)
    count = 250 if wanted.rank == 250 else 300
    assert found.exact
    assert len(found.values) == count
    torch.testing.assert_close(
        found.values.square().cumsum(0), expected.cumsum(0)[:count], rtol=0, atol=bound
    )
    for rank in (1, 100, count):
        tail = expected[rank:].sum().item()
        assert squared_error(matrix, found, rank) == pytest.approx(tail, abs=bound)


# --- reading -------------------------------------------------------------------------------------


def agree(matrix: torch.Tensor, one: Leading, other: Leading) -> None:
    """As two of the nearly best do; exact ones to rounding."""
    assert len(one.values) == len(other.values)
    if one.exact:
        assert one.kept == pytest.approx(other.kept, abs=rounding(matrix))
    for found in (one, other):
        is_nearly_best(matrix, found, len(found.values))


def parted(matrix: torch.Tensor, sizes: list[int]) -> RowBlocks:
    blocks = torch.split(matrix, sizes)
    begins = torch.tensor([0, *sizes]).cumsum(0).tolist()
    m, n = matrix.shape
    return RowBlocks((m, n), lambda: zip(begins, blocks, strict=False))


@pytest.mark.parametrize("wanted", [Wanted(rank=6), Wanted(rank=200), Wanted(loss=0.3)])
@pytest.mark.parametrize("sizes", [[320], [1] * 320, [7, 300, 13]])
def test_how_a_matrix_is_parted_does_not_matter(wanted: Wanted, sizes: list[int]) -> None:
    matrix = with_values(SPECTRA["slow"], 320, 330)
    one = leading(RowBlocks.of(matrix), wanted, seed=0)
    other = leading(parted(matrix, sizes), wanted, seed=0)
    assert one.exact == other.exact
    assert one.total == pytest.approx(other.total, rel=8 * 330 * EPS)
    agree(matrix, one, other)


@pytest.mark.parametrize("wanted", [Wanted(rank=6), Wanted(rank=200)])
def test_a_large_block_is_widened_in_parts(wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = with_values(SPECTRA["slow"], 320, 330)
    expected = leading(parted(matrix, [320]), wanted, seed=0)
    monkeypatch.setattr(rows, "_BLOCK", 7 * 330)
    found = leading(parted(matrix, [320]), wanted, seed=0)
    assert found.kept == pytest.approx(expected.kept, abs=rounding(matrix))
    assert squared_error(matrix, found) == pytest.approx(
        found.total - found.kept, abs=rounding(matrix)
    )


def test_the_same_seed_gives_the_same_bytes() -> None:
    matrix = with_values(SPECTRA["slow"], 320, 330)

    def run(source: torch.Tensor, seed: int) -> bytes:
        found = leading(RowBlocks.of(source), Wanted(rank=8), seed=seed)
        return b"".join(each.numpy().tobytes() for each in (found.up, found.values, found.down))

    assert run(matrix, 5) == run(matrix.clone(), 5)
    assert run(matrix, 5) != run(matrix, 6)


def test_a_matrix_of_strides_is_read_as_it_is() -> None:
    base = with_values(SPECTRA["slow"], 330, 640)
    for view in (base[:, ::2], base[:, :320].T, base.flip(0)[:, :320]):
        one = leading(RowBlocks.of(view), Wanted(rank=4), seed=0)
        other = leading(RowBlocks.of(view.contiguous()), Wanted(rank=4), seed=0)
        agree(view, one, other)


@pytest.mark.parametrize("wanted", [Wanted(rank=8), Wanted(rank=250), Wanted(loss=0.3)])
@pytest.mark.parametrize("shape", [(400, 320), (60, 50)])
def test_a_device_finds_what_the_processor_finds(
    wanted: Wanted, shape: tuple[int, int], device: torch.device
) -> None:
    matrix = with_values(SPECTRA["slow"][: shape[1]], *shape)
    one = leading(RowBlocks.of(matrix), wanted, seed=0)
    other = leading(RowBlocks.of(matrix), wanted, seed=0, device=device)
    agree(matrix, one, other)
    assert one.total == pytest.approx(other.total, rel=8 * 400 * EPS)


def test_the_device_that_stands_in_keeps_operands_apart() -> None:
    with device_apart() as device:
        there = torch.ones(3, device=device)
        assert (there + there).cpu().tolist() == [2, 2, 2]
        with pytest.raises(RuntimeError, match="operands on the device and in memory"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError):
            there.numpy()
