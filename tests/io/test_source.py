"""A source gives the same rows however they are asked for, and reads no more than those."""

import math
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from loratools.io import values as module
from loratools.io.computed import multiplied, rearranged, same_numbers, stored_elements, taken
from loratools.io.dtypes import BITS, from_torch_name, nbytes, to_torch, torch_name
from loratools.io.file import InputFile
from loratools.io.source import (
    Held,
    Reshaped,
    Source,
    Stored,
    Transposed,
    as_bytes,
    flattened,
    sliced,
    transposed,
)
from loratools.io.values import is_zero, same_bytes


def pad(sides: tuple[int, int], tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, sides)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Stored, torch.Tensor]]:
    """Stored tensors by name, and their values."""
    values = {
        "matrix": torch.arange(24.0).reshape(4, 6),
        "bf16": torch.arange(20.0).reshape(5, 4).bfloat16(),
        "kernel": torch.arange(48.0).reshape(4, 3, 2, 2).half(),
        "vector": torch.arange(5.0),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
        "codes": torch.arange(6, dtype=torch.uint8).reshape(2, 3),
    }
    path = tmp_path_factory.mktemp("source") / "file"
    save_file(values, path)
    file = InputFile(path)
    return {t.name: (Stored(*t, file), values[t.name]) for t in file.read_header().tensors}


def variants(
    stored: dict[str, tuple[Stored, torch.Tensor]],
) -> Iterator[tuple[Source, torch.Tensor]]:
    """Every kind of source, with the values it has to give."""
    matrix, values = stored["matrix"]
    kernel, kernels = stored["kernel"]
    yield from stored.values()
    yield Held("held", values, "F32"), values
    yield Reshaped(kernel, (4, 12)), kernels.reshape(4, 12)
    yield flattened(kernel), kernels.reshape(4, 12)
    yield Transposed(matrix), values.T
    yield transposed(Held("held", values, "F32")), values.T
    yield transposed(transposed(matrix)), values
    yield flattened(matrix), values
    yield rearranged(matrix, (4, 6), torch.flipud), values.flipud()
    yield multiplied(matrix, 2.0), values * 2
    yield taken(matrix, (2, 0, 3)), values[[2, 0, 3]]
    for source, numbers in (
        (matrix, values),
        (kernel, kernels),
        (Transposed(matrix), values.T),
        (flattened(kernel), kernels.reshape(4, 12)),
        (multiplied(matrix, 2.0), values * 2),
    ):
        yield sliced(source, 1, 4), numbers[1:4]
        yield sliced(sliced(source, 1, 4), 1, 3), numbers[2:4]


def test_every_source_gives_its_values_and_any_of_its_rows(
    stored: dict[str, tuple[Stored, torch.Tensor]],
) -> None:
    for source, values in variants(stored):
        assert source.shape == tuple(values.shape)
        assert to_torch(source.dtype) == values.dtype
        assert torch.equal(source.read(), values)
        assert len(source.keys) == 1
        for begin in range(values.shape[0] if source.shape else 0):
            for end in range(begin, values.shape[0] + 1):
                assert torch.equal(source.read_rows(begin, end), values[begin:end])


def test_every_source_can_be_sent_to_another_process(
    stored: dict[str, tuple[Stored, torch.Tensor]],
) -> None:
    for source, values in variants(stored):
        assert torch.equal(pickle.loads(pickle.dumps(source)).read(), values)


def test_a_rearranged_tensor_has_the_numbers_that_are_stored_and_no_others(
    stored: dict[str, tuple[Stored, torch.Tensor]],
) -> None:
    """They are counted, and looked at, in the file: the zeros around them are not."""
    matrix, _ = stored["matrix"]
    wide = transposed(rearranged(matrix, (4, 12), partial(pad, (0, 6))))
    assert stored_elements(wide) == 24
    assert wide.shape == (12, 4)
    assert same_numbers(wide) is matrix
    product = multiplied(wide, 0.0)
    assert same_numbers(product) is product
    assert is_zero(product)
    assert not is_zero(wide)


def test_rows_are_read_into_a_block_that_is_there(
    stored: dict[str, tuple[Stored, torch.Tensor]],
) -> None:
    source, values = stored["bf16"]
    block = torch.empty(2, 4, dtype=torch.bfloat16)
    source.read_rows_into(block, 3)
    assert torch.equal(block, values[3:])


@pytest.mark.parametrize(("rows", "most"), [((1, 2), 12), ((0, 4), 48)])
def test_only_the_rows_that_are_asked_for_are_read(
    stored: dict[str, tuple[Stored, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    rows: tuple[int, int],
    most: int,
) -> None:
    source, _ = stored["kernel"]
    read = []
    monkeypatch.setattr(
        InputFile, "read_into", lambda file, buffer, offset: read.append(len(buffer))
    )
    source.read_rows(*rows)
    assert sum(read) == 2 * most


@pytest.mark.parametrize(("columns", "read"), [(6, [96]), (1024, [4 * 4096]), (1025, [8, 8, 8, 8])])
def test_columns_are_read_without_the_rest_of_a_matrix_whose_rows_are_longer_than_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int, read: list[int]
) -> None:
    """As many reads as rows would take minutes for the factors of a large adapter."""
    values = torch.arange(4.0 * columns).reshape(4, columns)
    save_file({"wide": values}, tmp_path / "file")
    file = InputFile(tmp_path / "file")
    (info,) = file.read_header().tensors
    sizes = []
    whole = InputFile.read_into

    def counted(file: InputFile, buffer: memoryview, offset: int) -> None:
        sizes.append(len(buffer))
        whole(file, buffer, offset)

    monkeypatch.setattr(InputFile, "read_into", counted)
    assert torch.equal(transposed(Stored(*info, file)).read_rows(1, 3), values.T[1:3])
    assert sizes == read


def test_the_bytes_of_a_tensor_are_those_in_the_file(
    stored: dict[str, tuple[Stored, torch.Tensor]],
) -> None:
    for source, _ in stored.values():
        assert bytes(as_bytes(source.read())) == source.file.read(source.begin, source.nbytes)


@given(
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple) | st.tuples(st.integers(5, 40)),
    at=st.integers(0),
    limit=st.sampled_from([1, 8, 10**6]),
)
def test_tensors_are_the_same_when_every_bit_is(
    monkeypatch_module: pytest.MonkeyPatch, shape: tuple[int, ...], at: int, limit: int
) -> None:
    """Whatever the sizes of the pieces; -0 is not 0, and a NaN is itself."""
    monkeypatch_module.setattr(module, "_FIRST_BYTES", limit)
    monkeypatch_module.setattr(module, "_COMPARED_BYTES", 5 * limit)
    one = torch.full(shape, torch.nan)
    other = one.clone()
    if count := math.prod(shape):
        one.view(-1)[at % count] = 0.0
        other.view(-1)[at % count] = -0.0
    held = Held("one", one, "F32")
    assert same_bytes(held, Held("copy", one.clone(), "F32"))
    assert same_bytes(held, Held("other", other, "F32")) == (count == 0)
    assert not same_bytes(held, Held("wide", one.double(), "F64"))
    assert not same_bytes(held, Held("long", one[None], "F32"))


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_products_of_a_product_are_rounded_once() -> None:
    """2⁻³⁰ is no number of float16, and 2⁻³⁰ times 2³⁰ is 1."""
    one = Held("one", torch.tensor([3.0]).half(), "F16")
    small = multiplied(one, 2.0**-30)
    assert small.read().item() == 0
    assert multiplied(small, 2.0**20).read().item() == 3 * 2.0**-10
    assert multiplied(small, 2.0**30) is one
    assert small.keys == one.keys


def test_every_dtype_has_a_name_and_a_width_everywhere() -> None:
    """Those without a torch dtype are carried as bytes, and computing with one is a KeyError."""
    for name, bits in BITS.items():
        assert nbytes(name, (8,)) == bits
        if torch_name(name) == name:
            with pytest.raises(KeyError):
                to_torch(name)
        else:
            assert 8 * to_torch(name).itemsize == bits
            assert from_torch_name(torch_name(name)) == name
    with pytest.raises(KeyError):
        from_torch_name("quint8")
