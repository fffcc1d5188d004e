"""What an adapter announces and a base shows to be missing: told apart from what no base has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools import MergeOptions, RankRule, Rescaling
from loratools.errors import UnsupportedError
from tests.merged import merged, pair, write_adapter, write_base

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


def test_biases_that_did_not_change_need_not_be_stored_and_are_told(tmp_path: Path) -> None:
    stored = {**pair("q", 6, 4), "v.bias": torch.ones(6)}
    adapter = write_adapter(tmp_path / "adapter", stored, bias="all")
    found, report = merged(base(tmp_path / "base", WEIGHTS, BIASES), adapter)
    (note,) = report.notes
    assert note.endswith("bias is 'all', and q.bias are not stored: they stay as in the base")
    assert torch.equal(found["v.bias"], torch.ones(6))
    assert torch.equal(found["q.bias"], torch.zeros(6))


NORMS = {f"layers.{i}.norm.{part}": torch.zeros(4) for i in range(3) for part in ("weight", "bias")}
HEAD = {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)}
SAVED = {**NORMS, **HEAD}


@pytest.mark.parametrize(
    "lost",
    [
        ["head.bias"],
        ["head.weight"],
        ["layers.1.norm.bias"],
        ["layers.2.norm.bias", "layers.2.norm.weight"],
    ],
    ids=", ".join,
)
def test_module_that_is_saved_whole_and_stored_in_part_is_refused(
    tmp_path: Path, lost: list[str]
) -> None:
    """PEFT asks for every tensor of every module whose name ends so."""
    stored = {name: tensor + 1 for name, tensor in SAVED.items() if name not in lost}
    adapter = write_adapter(tmp_path / "adapter", stored, modules_to_save=["norm", "head"])
    model = base(tmp_path / "base", WEIGHTS, SAVED)
    with pytest.raises(UnsupportedError, match=rf"{lost[0]}.*skip=\['{lost[0]}'\]"):
        merged(model, adapter)
    found = loratools.inspect(adapter, base=model)
    assert found.coverage is not None
    assert lost[0] in (found.coverage.refusal or "")
    options = MergeOptions(skip=tuple(lost))
    tensors, _ = merged(model, adapter, options=options)
    assert {name: float(tensor.max()) for name, tensor in tensors.items()} == {
        name: float(name in stored) for name in {**WEIGHTS, **SAVED}
    }


def test_saved_module_of_another_part_of_the_base_is_told_and_not_refused(tmp_path: Path) -> None:
    """A class without that part was trained: a language model of an image model, for one."""
    adapter = write_adapter(tmp_path / "adapter", NORMS, modules_to_save=["norm"])
    other = {"vision.norm.weight": torch.zeros(4), "layers.0.norm.running_mean": torch.zeros(4)}
    _, report = merged(base(tmp_path / "base", NORMS, other), adapter)
    (note,) = report.notes
    assert note.endswith("modules_to_save means vision.norm.weight too, which is not stored")


TIED = {"embed_tokens.weight": torch.zeros(7, 4), "q.weight": torch.zeros(6, 4)}
END = {
    "embed_tokens.lora_embedding_A": torch.ones(2, 7),
    "embed_tokens.lora_embedding_B": torch.ones(4, 2),
}
OTHER_END = {"lm_head.lora_A.weight": torch.ones(2, 4), "lm_head.lora_B.weight": torch.ones(7, 2)}
WHOLE = {"embed_tokens.weight": torch.ones(7, 4)}


@pytest.mark.parametrize(
    ("stored", "lost"),
    [(END, "lm_head"), (OTHER_END, "embed_tokens"), (WHOLE, "lm_head")],
    ids=["embedding", "head", "whole"],
)
def test_one_of_two_ends_that_were_trained_as_one_is_refused_where_the_base_ties_them(
    tmp_path: Path, stored: dict[str, torch.Tensor], lost: str
) -> None:
    fields = {"modules_to_save": ["embed_tokens"]} if stored is WHOLE else {}
    adapter = write_adapter(
        tmp_path / "adapter", {**pair("q", 6, 4), **stored}, ensure_weight_tying=True, **fields
    )
    tied = write_base(tmp_path / "base", TIED, {"tie_word_embeddings": True})
    with pytest.raises(UnsupportedError, match=f"ensure_weight_tying is set.*{lost}"):
        merged(tied, adapter)
    options = MergeOptions(skip=(f"{lost}.weight",)) if lost == "embed_tokens" else None
    if options is not None:
        merged(tied, adapter, options=options)
    if lost == "lm_head":
        merged(write_base(tmp_path / "untied", TIED), adapter, output=tmp_path / "other")


def test_both_ends_or_none_of_a_tied_base_are_nothing_to_refuse(tmp_path: Path) -> None:
    tied = write_base(tmp_path / "base", TIED, {"tie_word_embeddings": True})
    for number, stored in enumerate([{}, {**END, **OTHER_END}]):
        tensors = {**pair("q", 6, 4), **stored}
        adapter = write_adapter(tmp_path / f"{number}", tensors, ensure_weight_tying=True)
        merged(tied, adapter, output=tmp_path / f"out-{number}")


def test_rows_of_both_ends_are_stored_once_where_the_base_ties_them(tmp_path: Path) -> None:
    """As PEFT saves those that are the same at both; it loads none of the other kinds."""
    rows = {"embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 4)}
    same = {"embed_tokens": [1, 5], "lm_head": [1, 5]}
    adapter = write_adapter(tmp_path / "adapter", rows, trainable_token_indices=same)
    assert loratools.inspect(adapter).is_sound
    tied = write_base(tmp_path / "base", TIED, {"tie_word_embeddings": True})
    found, _ = merged(tied, adapter)
    assert found["embed_tokens.weight"].sum(1).tolist() == [0, 4, 0, 0, 0, 4, 0]
    assert "lm_head.weight" not in found
    head = {"lm_head.weight": torch.zeros(7, 4)}
    untied = write_base(tmp_path / "untied", {**TIED, **head}, {"tie_word_embeddings": False})
    with pytest.raises(UnsupportedError, match="rows of lm_head"):
        merged(untied, adapter, output=tmp_path / "other")
    others = {"embed_tokens": [1, 5], "lm_head": [1]}
    adapter = write_adapter(tmp_path / "others", rows, trainable_token_indices=others)
    with pytest.raises(UnsupportedError, match="rows of lm_head"):
        merged(tied, adapter, output=tmp_path / "other")


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
    verbs: list[Callable[[], object]] = [
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


@pytest.mark.parametrize(
    ("config", "base_tensors", "stored", "lost"),
    [
        ({"model_type": "bert"}, {}, {}, "classifier.weight"),
        ({"model_type": "roberta"}, {}, {}, "classifier.dense.weight, classifier.out_proj.weight"),
        (
            {"model_type": "roberta"},
            {},
            {"classifier.dense.weight": torch.zeros(4, 4)},
            "classifier.out_proj.weight",
        ),
        ({"model_type": "llama"}, {}, {}, "score.weight"),
        ({"model_type": "new"}, {"score.weight": torch.zeros(2, 4)}, {}, "score.weight"),
        ({"model_type": "new"}, {}, {}, None),
        ({"model_type": "bart"}, {}, {}, None),
        ({"model_type": "t5"}, {"classification_head.weight": torch.zeros(2, 4)}, {}, None),
        ({"model_type": "bert"}, {}, {"head.weight": torch.zeros(2, 4)}, None),
        (None, {}, {}, None),
    ],
    ids=str,
)
def test_head_of_the_task_is_missing_where_the_model_has_one_by_the_name_that_peft_trains(
    tmp_path: Path,
    config: dict[str, Any] | None,
    base_tensors: dict[str, torch.Tensor],
    stored: dict[str, torch.Tensor],
    lost: str | None,
) -> None:
    """PEFT lists these for every model. A head of another name it neither trains nor saves."""
    fields = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    if "head.weight" in stored:
        fields["modules_to_save"] = ["head", "classifier", "score"]
    adapter = write_adapter(tmp_path / "adapter", pair("bert.q", 6, 4) | stored, **fields)
    weights = {f"bert.{name}": tensor for name, tensor in WEIGHTS.items()}
    folder = write_base(tmp_path / "base", weights | base_tensors, config)
    if lost is None:
        merged(folder, adapter)
        return
    with pytest.raises(UnsupportedError, match=f"SEQ_CLS, and the trained {lost} is not stored"):
        merged(folder, adapter)
