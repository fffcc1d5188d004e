"""Beside packed weights plain ones are merged; packed ones keep their bytes, or are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loratools
from loratools.errors import UnsupportedError
from loratools.io.file import InputFile
from loratools.merging.plan import MergeOptions
from loratools.merging.report import MergeReport
from tests.merged import eighths, pair, update, write_adapter
from tests.packed import COLUMNS, FORMATS, PLAIN, ROWS, Format, write_packed

UPDATE = pair(PLAIN, ROWS, COLUMNS)
EACH_FORMAT = pytest.mark.parametrize("packed", FORMATS.values(), ids=FORMATS)


def contents(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of every tensor in the files of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = InputFile(path)
        for t in file.read_header().tensors:
            found[t.name] = (t.dtype, t.shape, file.read(t.begin, t.nbytes))
    return found


def merge_plain(tmp_path: Path, packed: Format, **arguments: object) -> MergeReport:
    base = write_packed(tmp_path / "base", packed)
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    return loratools.merge(base, adapter, output=tmp_path / "merged", **arguments)  # type: ignore[arg-type]


def assert_left_packed(tmp_path: Path, packed: Format, report: MergeReport) -> None:
    before, after = contents(tmp_path / "base"), contents(tmp_path / "merged")
    assert packed.stored
    assert {name: after[name] for name in packed.stored} == {
        name: before[name] for name in packed.stored
    }
    count = {"format": packed.said, "weights": 1, "tensors": len(packed.stored)}
    assert report.to_json()["packed"] == [count]


@EACH_FORMAT
def test_plain_weights_are_merged_beside_packed_ones(tmp_path: Path, packed: Format) -> None:
    report = merge_plain(tmp_path, packed)
    assert_left_packed(tmp_path, packed, report)
    before, after = contents(tmp_path / "base"), contents(tmp_path / "merged")
    assert [name for name in before if after[name] != before[name]] == [f"{PLAIN}.weight"]
    assert list(after) == list(before)


def test_the_plain_weight_is_the_rounded_sum(tmp_path: Path) -> None:
    write_packed(tmp_path / "base", FORMATS["GPTQ"])
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    loratools.merge(tmp_path / "base", adapter, output=tmp_path / "merged")
    before, after = (
        load_file(tmp_path / name / "model.safetensors")[f"{PLAIN}.weight"]
        for name in ("base", "merged")
    )
    assert torch.equal(after, (before.double() + update(UPDATE).double()).bfloat16())


@EACH_FORMAT
def test_packed_weights_and_their_scales_keep_their_dtypes(tmp_path: Path, packed: Format) -> None:
    report = merge_plain(tmp_path, packed, options=MergeOptions(dtype="float16"))
    assert_left_packed(tmp_path, packed, report)
    after = contents(tmp_path / "merged")
    assert {after[f"{PLAIN}.weight"][0], after["model.norm.weight"][0]} == {"F16"}


@EACH_FORMAT
def test_an_update_of_a_packed_weight_is_refused_by_name(tmp_path: Path, packed: Format) -> None:
    base = write_packed(tmp_path / "base", packed)
    module = packed.weight.removesuffix(".weight")
    touched = pair(module, ROWS, COLUMNS)
    fields = {}
    if module == packed.weight:
        touched, fields = {module: eighths(2, COLUMNS, ROWS)}, {"modules_to_save": ["experts"]}
    adapter = write_adapter(tmp_path / "adapter", UPDATE | touched, **fields)
    with pytest.raises(UnsupportedError) as caught:
        loratools.merge(base, adapter, output=tmp_path / "merged")
    message = str(caught.value)
    assert f"{packed.weight} is stored packed ({packed.said}" in message
    assert "merge into the original float weights, then quantise the result" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
