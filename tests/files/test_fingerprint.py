"""Fingerprints of weight files: equal for equal files, and for no fine-tuned version of one."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratools.files.checkpoints import open_checkpoint
from loratools.files.fingerprint import Fingerprint, fingerprint
from tests.merged import eighths, write_base


def of(path: Path) -> Fingerprint:
    return fingerprint(open_checkpoint(path).shards[0])


def test_digests_are_as_the_format_says(tmp_path: Path) -> None:
    """As docs/formats/overlay.md describes them, computed here from the bytes of the file."""
    small, large = eighths(3, 5), eighths(50, 41)
    path = tmp_path / "x.safetensors"
    save_file({"b": large, "a": small}, path, {"format": "pt"})
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    found = of(path)
    assert found.header == hashlib.sha256(data[:begin]).hexdigest()
    values = {name: tensor.numpy().tobytes() for name, tensor in (("a", small), ("b", large))}
    middle = (len(values["b"]) - 4096) // 2
    assert [tensor.name for tensor in open_checkpoint(path).shards[0].tensors] == ["a", "b"]
    sample = values["a"] + values["b"][middle : middle + 4096]
    assert found.samples == hashlib.sha256(sample).hexdigest()
    assert fingerprint(open_checkpoint(path).shards[0], values=False).samples is None


@pytest.mark.parametrize("row", [0, 63])
def test_one_number_is_noticed_in_the_middle_of_a_tensor_and_not_elsewhere(
    row: int, tmp_path: Path
) -> None:
    """What the guide says is compared, and what is not."""
    weight = torch.zeros(64, 64)
    before = of(write_base(tmp_path / "before", {"x": weight}))
    weight[row, 5] = 1
    assert of(write_base(tmp_path / "outside", {"x": weight})) == before
    weight[32, 5] = 1
    after = of(write_base(tmp_path / "inside", {"x": weight}))
    assert after.header == before.header
    assert after.samples != before.samples


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.bool])
def test_samples_of_any_dtype_and_of_empty_tensors(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"x": torch.ones(3).to(dtype), "y": torch.zeros(0, 4), "z": torch.ones(())}
    path = write_base(tmp_path / "base", tensors)
    assert of(path) == of(path / "model.safetensors")
