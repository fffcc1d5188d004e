"""Right vectors are nearly the best of their rank, and what they lose is known as said."""

from collections.abc import Iterable

import pytest
import torch

from loratools.errors import NonFiniteError
from loratools.lowrank import right
from loratools.lowrank.ranks import Wanted
from loratools.lowrank.right import Right, right_vectors
from loratools.lowrank.row_blocks import RowBlocks
from tests.devices import FewerBits
from tests.lowrank.test_dense import (
    EPS,
    NOISE,
    SPECTRA,
    STRUCTURES,
    TOLERANCE,
    energies,
    parted,
    rounding,
    structured,
    with_values,
)

#: As a share of itself, what is lost is known to at least so much.
SURELY = 2e-3


def found_in(
    matrix: torch.Tensor, wanted: Wanted, device: torch.device | None = None
) -> tuple[Right, torch.Tensor, int]:
    """What is found, the rows put together, and how often the matrix was read."""
    reads = []
    blocks = parted(matrix, [70] * (len(matrix) // 70) + [len(matrix) % 70])

    def read() -> Iterable[tuple[int, torch.Tensor]]:
        reads.append(0)
        return blocks.read()

    counted = RowBlocks(blocks.shape, read)
    pieces: dict[int, torch.Tensor] = {}
    found = right_vectors(counted, wanted, pieces.__setitem__, seed=0, device=device)
    return found, torch.cat([pieces[begin] for begin in sorted(pieces)], 1), len(reads)


def lost(matrix: torch.Tensor, found: Right, rows: torch.Tensor) -> float:
    """The squared error, multiplied out in float64."""
    return (matrix.double() - rows.double().T @ found.vectors.T).square().sum().item()


def is_certified(matrix: torch.Tensor, found: Right, rows: torch.Tensor) -> None:
    total = matrix.double().square().sum().item()
    stated = found.total - found.values.square().sum().item()
    true = lost(matrix, found, rows)
    assert found.total == pytest.approx(total, rel=8 * max(matrix.shape) * EPS)
    assert stated == pytest.approx(true, abs=max(rounding(matrix), found.unsure))
    assert found.unsure <= max(0, SURELY * stated)
    torch.testing.assert_close(rows.norm(dim=1), found.values, rtol=1e-12, atol=1e-14 * total**0.5)
    gram = found.vectors.T @ found.vectors
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(320, 330), (500, 320)])
@pytest.mark.parametrize("room", [2**22, 0])
def test_what_is_lost_is_known(
    name: str, shape: tuple[int, int], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(right, "_ROOM", room)
    matrix = with_values(SPECTRA[name], *shape)
    found, rows, _ = found_in(matrix, Wanted(rank=8))
    is_certified(matrix, found, rows)
    best = energies(matrix)[:8].sum().item()
    assert found.values.square().sum().item() <= best + found.unsure + rounding(matrix)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("rank", [1, 2, 8, 16])
def test_what_is_lost_is_known_where_errors_add_up(name: str, rank: int) -> None:
    for matrix in (structured(name), structured(name).T):
        found, rows, _ = found_in(matrix, Wanted(rank))
        is_certified(matrix, found, rows)
        best = energies(matrix)[:rank].sum().item()
        kept = found.values.square().sum().item()
        assert kept >= best - TOLERANCE * best - NOISE * found.total


@pytest.mark.parametrize("exponent", [-60, 0, 60])
def test_it_is_known_in_float64_where_that_is_needed(exponent: int) -> None:
    matrix = with_values(SPECTRA["slow"], 340, 320).double() * 2.0**exponent
    for wanted in (Wanted(rank=8), Wanted(loss=1e-6)):
        is_certified(matrix, *found_in(matrix, wanted)[:2])


def test_only_small_losses_take_another_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same space is found in any case."""
    matrix = with_values([3, 2, 1, 0.5], 400, 320)
    shares = energies(matrix).flip(0).cumsum(0).flip(0) / energies(matrix).sum()
    assert shares[3] > 1e-2
    assert shares[4] < 1e-3
    found = {}
    for rank in (3, 4):
        for room in (2**22, 0):
            monkeypatch.setattr(right, "_ROOM", room)
            found[rank, room] = found_in(matrix, Wanted(rank))
    assert found[3, 0][2] == found[3, 2**22][2] + 1
    assert found[4, 0][2] == found[4, 2**22][2]
    assert torch.equal(found[3, 0][0].vectors, found[3, 2**22][0].vectors)
    torch.testing.assert_close(found[3, 0][1], found[3, 2**22][1], rtol=0, atol=1e-6)


def test_rows_that_are_too_many_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the next block's would be."""
    matrix = with_values(SPECTRA["slow"], 400, 320)
    *_, reads = found_in(matrix, Wanted(rank=8))
    monkeypatch.setattr(right, "_ROOM", 400 * 20)
    assert found_in(matrix, Wanted(rank=8))[2] == reads + 1


@pytest.mark.parametrize("wanted", [Wanted(rank=2), Wanted(loss=1e-7), Wanted(rank=300)])
def test_values_that_are_not_finite_are_refused(wanted: Wanted) -> None:
    matrix = torch.ones(400, 320)
    matrix[-1, 2] = torch.nan
    with pytest.raises(NonFiniteError):
        found_in(matrix, wanted)


def test_what_is_lost_is_known_where_products_have_fewer_bits() -> None:
    matrix = with_values(SPECTRA["slow"], 400, 320)
    with FewerBits():  # type: ignore[no-untyped-call]  # torch's constructor
        assert (torch.eye(2) @ torch.full((2, 2), 1 + 2**-12)).max() == 1
        found, rows, _ = found_in(matrix, Wanted(rank=8))
    is_certified(matrix, found, rows)


@pytest.mark.parametrize("wanted", [Wanted(rank=8), Wanted(rank=200), Wanted(loss=1e-6)])
@pytest.mark.parametrize("room", [2**22, 0])
def test_a_device_finds_what_the_processor_finds(
    wanted: Wanted, room: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(right, "_ROOM", room)
    matrix = with_values(SPECTRA["slow"], 400, 320)
    one, *_ = found_in(matrix, wanted)
    other, rows, _ = found_in(matrix, wanted, device)
    is_certified(matrix, other, rows)
    assert other.values.square().sum().item() == pytest.approx(
        one.values.square().sum().item(), rel=1e-4
    )
