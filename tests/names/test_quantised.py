"""A config declares a method of quantisation, which decides only what stored tensors leave open."""

from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.errors import UnsupportedError
from loratools.merging.plan import MergeOptions
from loratools.names.quantised import declared_method
from tests.merged import config_of, pair, write_adapter
from tests.packed import COLUMNS, FORMATS, PLAIN, ROWS, Format, write_packed

NOTHING = Format("nothing", {})


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", pair(PLAIN, ROWS, COLUMNS))


def declaring(method: str = "some", **fields: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **fields}}


@pytest.mark.parametrize(
    ("declared", "method"),
    [
        ({"quant_method": "gptq"}, "gptq"),
        ({"quant_algo": "FP8"}, "FP8"),
        ({"bits": 4}, "quantization_config"),
        ({}, "quantization_config"),
        (None, None),
    ],
)
def test_a_config_declares_its_method(declared: dict[str, Any] | None, method: str | None) -> None:
    assert declared_method({"quantization_config": declared}) == method
    assert declared_method({}) is declared_method(None) is None


@pytest.mark.parametrize("fields", [{"quant_method": "bitsandbytes"}, {"bits": 4}], ids=str)
def test_weights_that_are_stored_plain_are_merged_whatever_is_declared(
    tmp_path: Path, adapter: Path, fields: dict[str, Any]
) -> None:
    config = {"quantization_config": fields}
    base = write_packed(tmp_path / "base", NOTHING, config)
    report = loratools.merge(base, adapter, output=tmp_path / "merged")
    assert report.to_json()["packed"] == []
    assert "no weight is stored packed" in report.notes[0]
    assert config_of(tmp_path / "merged") == config


def test_the_output_of_a_merge_declares_what_the_base_does(tmp_path: Path, adapter: Path) -> None:
    config = declaring("gptq", bits=4)
    base = write_packed(tmp_path / "base", FORMATS["GPTQ"], config)
    report = loratools.merge(base, adapter, output=tmp_path / "merged")
    assert config_of(tmp_path / "merged") == config
    assert report.notes == ()


def test_plain_weights_beside_awq_get_a_note(tmp_path: Path, adapter: Path) -> None:
    base = write_packed(tmp_path / "base", FORMATS["AWQ"], declaring("awq"))
    report = loratools.merge(base, adapter, output=None)
    assert "AWQ scales some plain weights together with the packed ones" in report.notes[0]


def test_weights_that_may_be_rotated_are_refused(tmp_path: Path, adapter: Path) -> None:
    config = declaring("compressed-tensors", transform_config={"config_groups": {"R1": {}}})
    base = write_packed(tmp_path / "base", FORMATS["int4 of compressed-tensors"], config)
    with pytest.raises(UnsupportedError, match="weights in plain floats may be rotated") as caught:
        loratools.merge(base, adapter, output=tmp_path / "merged")
    assert caught.value.file == str(base / "config.json")
    assert str(caught.value).startswith(f"{caught.value.file}: quantization_config ")


def test_floats_beside_codes_that_are_not_known_keep_their_dtype(
    tmp_path: Path, adapter: Path
) -> None:
    unknown = Format("unknown", {".self_attn.q_proj.words": ("I16", (4, 4))})
    base = write_packed(tmp_path / "base", unknown, declaring())
    options = MergeOptions(dtype="float32")
    with pytest.raises(UnsupportedError, match=r"q_proj\.words is stored as I16.*with dtype="):
        loratools.merge(base, adapter, output=None, options=options)
    loratools.merge(base, adapter, output=None)
