"""An update that changes nothing is never said to be applied: it is named, with its true cause."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools import MergeOptions, RankRule, Rescaling, WriteOptions
from loratools.deltas.lora import LoRA
from loratools.idle import NOTHING_LEFT
from loratools.io.file import InputFile
from loratools.io.source import Held, stored_tensors, transposed
from loratools.io.values import is_zero
from loratools.merging import steps
from loratools.merging.report import MergeReport
from tests.merged import eighths, merged, pair, write_adapter, write_base

TARGETS = {"target_modules": ["q"]}
UP_IS_ZERO = "up is zero throughout, as before training or with a strength of 0"
NO_ALPHA = "alpha is 0, which some converters write where none was set"
IN_PLACE = "the weight has these numbers already"


def zero(part: str, factors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    factors = factors or pair("q", 6, 4)
    return {name: t * 0 if part in name else t for name, t in factors.items()}


def disjoint() -> dict[str, Tensor]:
    """Factors of which neither is zero, and their product is."""
    up, down = torch.zeros(6, 2), torch.zeros(2, 4)
    up[:, 0], down[1] = 1, 1
    return {"q.lora_A.weight": down, "q.lora_B.weight": up}


def base(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Weights of which none is zero, in rows whose norms are whole numbers."""
    weight = torch.tensor([3.0, 4.0, 12.0, 84.0]).repeat(6, 1).to(dtype)
    return write_base(
        folder, {"q.weight": weight, "q.bias": eighths(6), "tok.weight": eighths(7, 4)}
    )


def dora(folder: Path, factor: float) -> dict[str, Tensor]:
    """Magnitudes of the base's norms times a factor, beside an update of zero."""
    weight = load_file(folder / "model.safetensors")["q.weight"]
    return {**zero("lora_B"), "q.lora_magnitude_vector": factor * weight.norm(dim=1)}


def rows(folder: Path, shift: float) -> dict[str, Tensor]:
    table = load_file(folder / "model.safetensors")["tok.weight"]
    return {"tok.token_adapter.trainable_tokens_delta": table[[2, 5]] + shift}


def reasons(report: MergeReport) -> Sequence[str]:
    return [part.reason for part in report.idle]


def assert_nothing_is_claimed(report: MergeReport) -> None:
    assert report.equals_base
    assert report.accounting.startswith("0 of ")
    assert "applied to 0 weights" in report.accounting
    assert "the output equals the base: no update changes a weight" in report.warnings
    assert "cosine 1" not in (report.fidelity_line or "")
    fields: Any = report.to_json()
    assert fields["equals_base"]
    assert fields["accounting"]["applied"] == 0
    assert fields["accounting"]["weights_changed"] == 0
    assert fields["accounting"]["base_tensors_unchanged"] == len(report.plan.tensors)
    assert len(fields["accounting"]["changing_nothing"]) == report.plan.accounting.total


@pytest.mark.parametrize(
    ("factors", "config", "weight", "reason"),
    [
        (zero("lora_B"), {}, 1.0, UP_IS_ZERO),
        (zero("lora_A"), {}, 1.0, "down is zero throughout"),
        (pair("q", 6, 4), {"lora_alpha": 0}, 1.0, NO_ALPHA),
        (pair("q", 6, 4), {"alpha_pattern": {"q": 0}}, 1.0, NO_ALPHA),
        (pair("q", 6, 4), {}, 0.0, "the weight is 0, as asked"),
        (disjoint(), {}, 1.0, "the product of its factors is zero, or too small for float64"),
        (
            pair("q", 6, 4),
            {"lora_alpha": 1e-12},
            1.0,
            "all of it is lost to rounding to float32",
        ),
    ],
    ids=["up", "down", "alpha", "pattern", "weight", "product", "lost"],
)
def test_merge_of_an_update_that_changes_nothing_says_so_and_why(
    tmp_path: Path, factors: dict[str, Tensor], config: dict[str, Any], weight: float, reason: str
) -> None:
    model = base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", factors, **TARGETS, **config)
    found, report = merged(model, adapter, weights=[weight])
    assert reasons(report) == [reason]
    assert_nothing_is_claimed(report)
    torch.testing.assert_close(found, load_file(model / "model.safetensors"), rtol=0, atol=0)
    assert "dtype=" not in " ".join(report.warnings), "it is that already"


@pytest.mark.parametrize(
    ("factor", "changes"), [(1.0, False), (1.5, True)], ids=["the norms of the base", "others"]
)
def test_a_dora_of_no_update_changes_a_weight_by_its_magnitudes(
    tmp_path: Path, factor: float, changes: bool
) -> None:
    model = base(tmp_path / "base")
    config = {**TARGETS, "use_dora": True}
    adapter = write_adapter(tmp_path / "adapter", dora(model, factor), **config)
    _, report = merged(model, adapter)
    assert reasons(report) == ([] if changes else [IN_PLACE])
    assert report.equals_base is not changes
    assert not loratools.inspect(adapter, spectrum=True).idle


@pytest.mark.parametrize(("shift", "changes"), [(0.0, False), (0.25, True)], ids=["same", "other"])
def test_rows_that_the_base_has_already_change_nothing(
    tmp_path: Path, shift: float, changes: bool
) -> None:
    model = base(tmp_path / "base")
    config = {"trainable_token_indices": {"tok": [2, 5]}}
    adapter = write_adapter(tmp_path / "adapter", rows(model, shift), **config)
    _, report = merged(model, adapter)
    assert reasons(report) == ([] if changes else [IN_PLACE])
    assert report.equals_base is not changes


@pytest.mark.parametrize(("shift", "changes"), [(0.0, False), (0.25, True)], ids=["same", "other"])
def test_whole_tensor_that_the_base_has_already_changes_nothing(
    tmp_path: Path, shift: float, changes: bool
) -> None:
    model = base(tmp_path / "base", torch.bfloat16)
    weight = load_file(model / "model.safetensors")["q.weight"].float() + shift
    whole = {"q.weight": weight, "q.bias": eighths(6)}
    adapter = write_adapter(tmp_path / "adapter", whole, modules_to_save=["q"])
    _, report = merged(model, adapter)
    assert reasons(report) == ["the base has the same tensor"] * (1 if changes else 2)
    assert report.equals_base is not changes


def test_biases_of_zero_change_nothing(tmp_path: Path) -> None:
    factors = {**pair("q", 6, 4), "q.lora_B.bias": torch.zeros(6)}
    adapter = write_adapter(tmp_path / "adapter", factors, **TARGETS, lora_bias=True)
    _, report = merged(base(tmp_path / "base"), adapter)
    assert [(part.name, part.reason) for part in report.idle] == [
        ("q.bias", "its numbers are zero throughout")
    ]
    assert report.accounting == (
        "2 of 3 adapter tensors applied to 1 weight; 2 base tensors unchanged; "
        "1 adapter tensor changes nothing"
    )
    assert not report.equals_base


def test_updates_that_take_each_other_back_change_nothing(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), **TARGETS)
    _, report = merged(base(tmp_path / "base"), adapter, adapter, weights=[1.0, -1.0])
    assert set(reasons(report)) == {"the updates of this weight take each other back"}
    assert_nothing_is_claimed(report)


def test_update_that_changes_nothing_is_told_beside_one_that_does(tmp_path: Path) -> None:
    trained = write_adapter(tmp_path / "trained", pair("q", 6, 4), **TARGETS)
    untrained = write_adapter(tmp_path / "untrained", zero("lora_B"), **TARGETS)
    _, report = merged(base(tmp_path / "base"), trained, untrained)
    assert [(part.keys[0][0], part.reason) for part in report.idle] == [("1", UP_IS_ZERO)]
    assert report.accounting.startswith("2 of 4 adapter tensors applied to 1 weight")
    assert not report.equals_base
    assert report.warnings == (f"1 update changes nothing: {UP_IS_ZERO} (q.weight)",)


def test_idle_update_of_a_replaced_tensor_leaves_it_replaced(tmp_path: Path) -> None:
    tensors = {"q.weight": eighths(6, 4), "q.bias": eighths(6) + 1}
    whole = write_adapter(tmp_path / "whole", tensors, modules_to_save=["q"])
    untrained = write_adapter(tmp_path / "untrained", zero("lora_B"), **TARGETS)
    _, report = merged(base(tmp_path / "base"), whole, untrained)
    assert reasons(report) == [UP_IS_ZERO]
    assert not report.equals_base
    assert "applied to 2 weights" in report.accounting


@pytest.mark.parametrize("seed", [None, 7], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_output_of_another_dtype_equals_the_base_in_that_dtype(
    tmp_path: Path, dtype: Any, seed: int | None
) -> None:
    model = write_base(tmp_path / "base", {"q.weight": torch.randn(6, 4)})
    _, report = merged(
        model,
        write_adapter(tmp_path / "adapter", disjoint(), **TARGETS),
        options=MergeOptions(dtype=dtype),
        write=WriteOptions(seed=seed),
    )
    assert_nothing_is_claimed(report)


@pytest.mark.parametrize("row", [0, 3000, 4095])
def test_one_number_that_moves_is_enough(
    tmp_path: Path, row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is in a matrix of several blocks and steps, and without reading factors again."""
    monkeypatch.setattr(steps, "_SPAN_BLOCKS", 1)
    monkeypatch.setattr(LoRA, "nothing", lambda _: pytest.fail("read again"))
    up, down = torch.zeros(4096, 1), torch.zeros(1, 512)
    up[row], down[0, -1] = 1, 1
    factors = {"q.lora_A.weight": down, "q.lora_B.weight": up}
    adapter = write_adapter(tmp_path / "adapter", factors, **TARGETS, r=1)
    _, report = merged(write_base(tmp_path / "base", {"q.weight": torch.ones(4096, 512)}), adapter)
    assert not report.idle
    assert not report.equals_base


@pytest.mark.parametrize(
    ("factors", "config", "message"),
    [
        (zero("lora_B"), {}, f"no update changes anything: 1 update changes nothing: {UP_IS_ZERO}"),
        (zero("lora_A"), {}, "down is zero throughout"),
        (disjoint(), {}, "the product of its factors is zero, or too small for float64"),
        (pair("q", 6, 4), {"lora_alpha": 0}, NO_ALPHA),
    ],
    ids=["up", "down", "product", "alpha"],
)
def test_check_fails_on_an_adapter_that_changes_nothing_and_names_the_cause(
    tmp_path: Path, factors: dict[str, Tensor], config: dict[str, Any], message: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", factors, **TARGETS, **config)
    found = loratools.inspect(adapter, spectrum=True)
    problems = [note.message for note in found.notes if note.severity == "problem"]
    assert any(message in problem for problem in problems)
    assert not found.is_sound
    assert list(found.idle) == ["q.weight"]


def test_alpha_of_zero_is_a_problem_by_the_config_alone(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), **TARGETS, lora_alpha=0)
    assert not loratools.inspect(adapter).is_sound


def test_alpha_of_zero_in_a_kohya_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    down, up = pair("q", 6, 4).values()
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(0.0)}
    file = tmp_path / "kohya.safetensors"
    save_file({f"lora_unet_q.{part}": tensor for part, tensor in tensors.items()}, file)
    _, report = merged(base(tmp_path / "base"), file)
    assert reasons(report) == [NO_ALPHA]
    assert_nothing_is_claimed(report)


def test_dry_run_names_what_the_stored_tensors_show(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", zero("lora_B"), **TARGETS)
    report = loratools.merge(base(tmp_path / "base"), adapter, output=None)
    assert reasons(report) == [UP_IS_ZERO]
    assert report.warnings[0] == "the output would equal the base: no update changes a weight"


@pytest.mark.parametrize("place", [0, 70_000, -1, None])
def test_tensor_is_zero_only_if_no_number_of_it_is_another(
    tmp_path: Path, place: int | None
) -> None:
    values = torch.zeros(1000, 300)
    if place is not None:
        values.view(-1)[place] = torch.finfo(torch.float32).tiny
    save_file({"x": values}, tmp_path / "x")
    file = InputFile(tmp_path / "x")
    stored = stored_tensors(file, file.read_header())["x"]
    for source in (Held("x", values, "F32"), stored):
        assert is_zero(source) is is_zero(transposed(source)) is (place is None)


@pytest.mark.parametrize("verb", ["rescale", "resize", "combine"])
@pytest.mark.parametrize("stored", ["zero", "half", "trained"])
def test_verb_says_that_the_adapter_it_writes_changes_nothing(
    tmp_path: Path, verb: str, stored: str
) -> None:
    factors = {
        "zero": zero("lora_B"),
        "half": {**zero("lora_B"), **pair("k", 6, 4)},
        "trained": pair("q", 6, 4),
    }[stored]
    adapter = write_adapter(
        tmp_path / "adapter", factors, target_modules=["q", "k"][: len(factors) // 2]
    )
    output = tmp_path / "out"
    run: dict[str, Callable[[], Any]] = {
        "rescale": lambda: loratools.rescale(adapter, output=output, rescaling=Rescaling()),
        "resize": lambda: loratools.resize(adapter, output=output, rule=RankRule(rank=1)),
        "combine": lambda: loratools.combine([adapter], output=output),
    }
    report = run[verb]()
    assert report.notes.count(NOTHING_LEFT) == (stored == "zero")
    told = [note for note in report.notes if "1 update changes nothing: up is zero" in note]
    assert bool(told) is (stored != "trained")


def test_strength_of_zero_is_said_to_leave_nothing(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", pair("q", 6, 4), **TARGETS)
    report = loratools.rescale(adapter, output=tmp_path / "out", rescaling=Rescaling(strength=0.0))
    assert NOTHING_LEFT in report.notes
