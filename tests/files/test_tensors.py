"""Tensors that are stored side by side are written together, and each is still looked at."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.errors import NonFiniteError
from loratools.files import tensors
from loratools.io.bundle import Bundle
from loratools.io.file import InputFile
from loratools.io.source import Source, Stored
from loratools.io.writer import OutputFile
from loratools.reshaping.rescale import RescaleReport
from tests.merged import PREFIX, pair, write_adapter

MODULES = [f"layers.{number}.q" for number in range(40)]


def factors(dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for number, module in enumerate(MODULES):
        dtype = dtypes[number % len(dtypes)]
        tensors |= {name: t.to(dtype) for name, t in pair(module, 6, 5, seed=number).items()}
    return tensors


def halved(adapter: Path, output: Path) -> RescaleReport:
    return loratools.rescale(adapter, output=output, rescaling=loratools.Rescaling(strength=0.5))


def stored(file: Path) -> dict[str, Source]:
    opened = InputFile(file)
    return {info.name: Stored(*info, opened) for info in opened.read_header().tensors}


def written(sources: dict[str, Source], file: Path) -> dict[str, torch.Tensor]:
    bundle = Bundle("here", sources, {}, None, (), 0)
    tensors.write_tensors(bundle, file, tensors.layout_of(bundle), map)
    return load_file(file)


def test_what_is_copied_is_told_as_progress_as_what_is_computed_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors())
    monkeypatch.setattr(tensors, "_RUN_BYTES", 1)
    seen: list[int] = []
    loratools.rescale(
        adapter, alpha=2, output=tmp_path / "out", progress=lambda done, total: seen.append(done)
    )
    assert len(set(seen)) > len(MODULES) / 2


@pytest.mark.parametrize("limit", [1, 100, 2**20])
@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.float32, torch.bfloat16)])
def test_runs_of_any_length_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, dtypes: tuple[torch.dtype, ...]
) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors(dtypes))
    monkeypatch.setattr(tensors, "_RUN_BYTES", limit)
    halved(adapter, tmp_path / "half")
    before, after = (
        load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "half")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(before[name].dtype == after[name].dtype for name in before)


def test_tensors_in_another_order_than_they_are_stored_are_no_neighbours(tmp_path: Path) -> None:
    tensors = factors()
    save_file(tensors, tmp_path / "stored")
    sources = [*stored(tmp_path / "stored").items()]
    for number, chosen in enumerate((sources[::-1], sources[::2], sources[1::3])):
        found = written(dict(chosen), tmp_path / str(number))
        assert found.keys() == dict(chosen).keys()
        assert all(torch.equal(found[name], tensors[name]) for name in found)


def test_tensors_of_two_files_are_no_neighbours(tmp_path: Path) -> None:
    """The second begins in its file where the first ends in its own."""
    one, other = torch.arange(4.0), 10 + torch.arange(4.0)
    save_file({"a": one, "b": torch.zeros(4)}, tmp_path / "one")
    save_file({"a": torch.zeros(4), "b": other}, tmp_path / "other")
    sources = {"a": stored(tmp_path / "one")["a"], "b": stored(tmp_path / "other")["b"]}
    found = written(sources, tmp_path / "both")
    assert torch.equal(found["a"], one)
    assert torch.equal(found["b"], other)


def test_many_small_tensors_take_few_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors())
    writes = []
    write = OutputFile._write

    def counted(self: OutputFile, data: memoryview, offset: int) -> None:
        writes.append(offset)
        write(self, data, offset)

    monkeypatch.setattr(OutputFile, "_write", counted)
    halved(adapter, tmp_path / "half")
    assert len(writes) == 2, "the header, and all tensors"


@pytest.mark.parametrize("number", [0, 17, 39])
def test_one_tensor_that_is_not_finite_is_named_among_its_neighbours(
    tmp_path: Path, number: int
) -> None:
    tensors = factors()
    bad = f"{MODULES[number]}.lora_B.weight"
    tensors[bad][3, 1] = float("nan")
    adapter = write_adapter(tmp_path / "adapter", tensors)
    with pytest.raises(NonFiniteError, match=f"{PREFIX}{bad}: holds a NaN".replace(".", r"\.")):
        halved(adapter, tmp_path / "half")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("number", [0, 17, 39])
def test_one_update_of_zeros_is_told_among_its_neighbours(tmp_path: Path, number: int) -> None:
    tensors = factors()
    tensors[f"{MODULES[number]}.lora_B.weight"].zero_()
    adapter = write_adapter(tmp_path / "adapter", tensors)
    written = halved(adapter, tmp_path / "half").written
    assert written is not None
    assert [MODULES[number] in line for line in written.idle] == [True]
