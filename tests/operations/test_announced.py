"""What an adapter announces and a base shows to be missing: told apart from what no base has."""

from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools import MergeOptions, RankRule, Rescaling
from loratools.errors import UnsupportedError
from tests.files import merged, pair, write_adapter, write_base

WEIGHTS = {"q.weight": torch.zeros(6, 4), "v.weight": torch.zeros(6, 6)}
BIASES = {"q.bias": torch.zeros(6), "v.bias": torch.zeros(6)}
TABLE = {"tok.weight": torch.zeros(7, 4)}


def base(folder: Path, *parts: dict[str, torch.Tensor]) -> Path:
    tensors: dict[str, torch.Tensor] = {}
    for some in parts:
        tensors |= some
    return write_base(folder, tensors)


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_are_announced_and_lost_are_refused_where_the_base_has_some(
    tmp_path: Path, bias: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), bias=bias)
    with pytest.raises(UnsupportedError, match=f"bias is '{bias}', and the trained q.bias"):
        merged(base(tmp_path / "base", WEIGHTS, BIASES), adapter)
    found = loratools.inspect(adapter, base=tmp_path / "base")
    assert found.coverage is not None
    assert "q.bias" in (found.coverage.refusal or "")
    merged(base(tmp_path / "without", WEIGHTS), adapter)


def test_biases_of_other_weights_are_not_missing_where_only_those_beside_loras_were_trained(
    tmp_path: Path,
) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), bias="lora_only")
    merged(base(tmp_path / "base", WEIGHTS, {"v.bias": torch.zeros(6)}), adapter)


def test_biases_that_did_not_change_need_not_be_stored(tmp_path: Path) -> None:
    stored = {**pair("q", 6, 4), "v.bias": torch.ones(6)}
    adapter = write_adapter(tmp_path / "adapter", stored, bias="all")
    found, _ = merged(base(tmp_path / "base", WEIGHTS, BIASES), adapter)
    assert torch.equal(found["v.bias"], torch.ones(6))
    assert torch.equal(found["q.bias"], torch.zeros(6))


def test_module_that_is_announced_and_has_no_update_is_told_where_the_base_has_it(
    tmp_path: Path,
) -> None:
    """And not refused: a model in memory has other names than its file, in transformers 5."""
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), target_modules=["q", "tok"])
    _, report = merged(base(tmp_path / "base", WEIGHTS, TABLE), adapter)
    (note,) = report.notes
    assert note.endswith("target_modules lists 'tok', and no update of tok.weight is stored")
    without = base(tmp_path / "without", WEIGHTS)
    _, report = merged(without, adapter, output=tmp_path / "other")
    assert report.notes == ()


@pytest.mark.parametrize(
    "options",
    [MergeOptions(skip=("tok.weight",)), MergeOptions(only=("q.weight",))],
    ids=["skip", "only"],
)
def test_what_is_not_wanted_is_not_missed(tmp_path: Path, options: MergeOptions) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), target_modules=["q", "tok"])
    _, report = merged(base(tmp_path / "base", WEIGHTS, TABLE), adapter, options=options)
    assert report.notes == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"use_dora": "false"},
        {"lora_bias": True},
        {"kasa_config": {}},
        {"modules_to_save": ["head"]},
        {"trainable_token_indices": [1]},
        {"r": 4},
        {"rank_pattern": {"q": 1}},
    ],
    ids=str,
)
def test_no_verb_makes_an_announced_and_lost_part_unannounced(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), target_modules=["q"], **fields)
    output = tmp_path / "out"
    verbs = [
        lambda: merged(base(tmp_path / "base", WEIGHTS), adapter, output=output),
        lambda: loratools.rescale(adapter, output=output, rescaling=Rescaling()),
        lambda: loratools.resize(adapter, output=output, rule=RankRule(rank=1)),
        lambda: loratools.combine([adapter, adapter], output=output),
    ]
    for verb in verbs:
        with pytest.raises(UnsupportedError):
            verb()
    assert not output.exists()
    assert not loratools.inspect(adapter).is_sound


def test_written_config_announces_no_kind_that_is_no_longer_stored(tmp_path: Path) -> None:
    factors = {**pair("q", 6, 4), "q.lora_diag": torch.ones(2)}
    adapter = write_adapter(tmp_path / "adapter", factors, target_modules=["q"], kasa_config={})
    model = write_base(tmp_path / "base", {"q.weight": torch.randn(6, 4)})
    loratools.rescale(
        adapter, output=tmp_path / "out", base=model, rescaling=Rescaling(), rule=RankRule(rank=4)
    )
    written = loratools.open_adapter(tmp_path / "out")
    written.check_usable()
    assert written.kinds == ("LoRA",)


@pytest.mark.parametrize(
    "part", [{"q.lora_diag": torch.ones(2)}, {"q.lora_magnitude_vector": torch.ones(6)}], ids=list
)
def test_written_config_announces_the_kind_that_is_stored(
    tmp_path: Path, part: dict[str, torch.Tensor]
) -> None:
    adapter = write_adapter(tmp_path / "adapter", {**pair("q", 6, 4), **part}, target_modules=["q"])
    loratools.rescale(adapter, output=tmp_path / "out", rescaling=Rescaling())
    assert not loratools.inspect(adapter).is_sound
    assert loratools.inspect(tmp_path / "out").is_sound
