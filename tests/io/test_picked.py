"""Rows of a stored tensor in another order, and its columns, read a few at a time."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from loratools.io.file import InputFile
from loratools.io.picked import Picked, stored_axes
from loratools.io.source import Stored, stored_tensors

WHOLE = torch.arange(7 * 5, dtype=torch.float32).view(7, 5)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    save_file({"w": WHOLE}, tmp_path / "w.safetensors")
    file = InputFile(tmp_path / "w.safetensors")
    return stored_tensors(file, file.read_header())["w"]


@pytest.mark.parametrize(
    ("runs", "is_transposed", "expected"),
    [
        (((2, 5),), False, WHOLE[2:5]),
        (((4, 7), (0, 4)), False, torch.cat([WHOLE[4:], WHOLE[:4]])),
        (((6, 7), (0, 1), (3, 5)), False, WHOLE[[6, 0, 3, 4]]),
        (((0, 7),), True, WHOLE.T),
    ],
)
def test_any_rows_are_those_of_the_picked_tensor(
    stored: Stored, runs: tuple[tuple[int, int], ...], is_transposed: bool, expected: Tensor
) -> None:
    picked = Picked(stored, runs, is_transposed)
    assert picked.shape == tuple(expected.shape)
    assert picked.nbytes == 4 * expected.numel()
    assert torch.equal(picked.read(), expected)
    for begin in range(len(expected)):
        for end in range(begin, len(expected) + 1):
            assert torch.equal(picked.read_rows(begin, end), expected[begin:end])
    if is_transposed:
        assert stored_axes(picked) is stored
    else:
        assert torch.equal(stored_axes(picked).read(), expected.T)
