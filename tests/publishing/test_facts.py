"""What a card is told of: stored adapters, merged models, and the reports of the steps before."""

import json
import math
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

import loratools
from loratools import RankRule, Rescaling
from loratools.errors import FormatError
from loratools.files.checkpoints import open_checkpoint
from loratools.publishing.card.facts import CardFacts, CardTarget, facts_of, hub_id
from loratools.publishing.card.readme import complete_card
from loratools.publishing.card.reports import CardFigure, CardSource, read_steps
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, SMALL, run_here
from tests.oracles import WARNED, oracle

REPO = "ann/mine"


def facts(name: str = "plain", reports: Sequence[Mapping[str, Any]] = (), **rest: Any) -> CardFacts:
    return facts_of(REPO, loratools.inspect(FIXTURES / name), read_steps(reports), **rest)


class Report(Protocol):
    """What a verb returns."""

    def to_json(self) -> dict[str, Any]: ...


def as_read(report: Report) -> dict[str, Any]:
    """As a reader of the file gets it."""
    fields: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    return fields


# Adapters and models


def test_tags_are_kinds_of_matrices_and_not_of_the_biases_beside_them() -> None:
    assert facts("adapters/gpt2-lora-bias").tags == ("lora", "loratools")


def test_peft_adapter() -> None:
    found = facts("adapters/dora", licence="MIT")
    assert (found.kind, found.library_name, found.licence) == ("adapter", "peft", "mit")
    assert found.tags == ("lora", "dora", "loratools")
    assert found.model_class == "AutoModelForCausalLM"
    assert found.base_models == ("stories260k",)
    assert sum(target.count for target in found.targets) == 16


def test_groups_of_several_ranks_are_one_row() -> None:
    (row,) = [t for t in facts("adapters/rslora-patterns").targets if "q_proj" in t.pattern]
    assert row == CardTarget("model.layers.*.self_attn.q_proj.weight", 5, (2, 4), "rsLoRA")


def test_kohya_adapter_does_not_name_an_architecture_or_a_file_as_its_base() -> None:
    found = facts("kohya/sd15-locon")
    assert (found.library_name, found.base_models, found.model_class) == ("diffusers", (), None)
    card = complete_card(None, found)
    assert 'load_lora_weights("ann/mine")' in card
    assert "`BASE` stands for" in card
    named = complete_card(None, facts("kohya/sd15-locon", base_models=["ann/diffusion"]))
    assert 'DiffusionPipeline.from_pretrained("ann/diffusion")' in named


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"task_type": "SEQ_CLS"}, "AutoModelForSequenceClassification"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "AutoModelForSeq2SeqLM"),
        ({"task_type": "FEATURE_EXTRACTION"}, "AutoModel"),
        ({"task_type": None}, "AutoModelForCausalLM"),
        (
            {
                "task_type": None,
                "auto_mapping": {
                    "base_model_class": "ViTModel",
                    "parent_library": "transformers.models.vit.modeling_vit",
                },
            },
            "ViTModel",
        ),
        (
            {
                "task_type": None,
                "auto_mapping": {"base_model_class": "x; y", "parent_library": "transformers"},
            },
            "AutoModelForCausalLM",
        ),
    ],
)
def test_class_of_the_base_is_by_the_task_or_as_peft_was_given_it(
    tmp_path: Path, fields: dict[str, Any], name: str
) -> None:
    folder = shutil.copytree(PLAIN, tmp_path / "adapter")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    assert facts_of(REPO, loratools.inspect(folder)).model_class == name


@pytest.mark.parametrize(
    ("architectures", "library", "name"),
    [
        (["LlamaForCausalLM"], "transformers", "AutoModelForCausalLM"),
        (["GPT2LMHeadModel"], "transformers", "AutoModelForCausalLM"),
        (["T5ForConditionalGeneration"], "transformers", "T5ForConditionalGeneration"),
        (["x; y"], None, None),
        ([], None, None),
        (None, None, None),
    ],
)
def test_merged_model(
    tmp_path: Path, architectures: list[str] | None, library: str | None, name: str | None
) -> None:
    folder = shutil.copytree(SINGLE, tmp_path / "merged")
    (folder / "config.json").write_text(json.dumps({"architectures": architectures}))
    found = facts_of(REPO, open_checkpoint(folder))
    assert (found.kind, found.library_name, found.model_class) == ("merge", library, name)
    assert found.tags == ("merge", "loratools")
    assert f"hf://{REPO}" in complete_card(None, found) or library


@pytest.mark.parametrize("base", ["/models/mine", "../model", "C:\\me\\model", "model.bin", ""])
def test_base_that_is_a_path_is_not_named(tmp_path: Path, base: str) -> None:
    folder = shutil.copytree(PLAIN, tmp_path / "adapter")
    config = folder / "adapter_config.json"
    fields = json.loads(config.read_text()) | {"base_model_name_or_path": base}
    config.write_text(json.dumps(fields))
    assert facts_of(REPO, loratools.inspect(folder)).base_models == ()


def test_names_on_the_hub() -> None:
    assert hub_id("hf://ann/stories@main/a.safetensors") == "ann/stories"
    assert hub_id("hf://ann") is None
    assert hub_id("ann/stories") == "ann/stories"


# Reports


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every verb's, on paths that nobody else should see."""
    place = tmp_path_factory.mktemp("private")
    small = shutil.copytree(SMALL, place / "small")
    rescaling = Rescaling(where=[("*.q_proj", 0.5), ("*.layers.0.*v_proj", 2)])
    made: dict[str, Report] = {
        "merge": loratools.merge(
            SHARDED, [small, PLAIN], weights=[0.5, 1], output=place / "merged"
        ),
        "combine": loratools.combine([(small, 1), (PLAIN, 0.25)], method="ties", rank=2).report,
        "resize": loratools.resize(small, rank=2).report,
        "rescale": loratools.rescale(small, rescaling=rescaling).report,
    }
    made["svd-extract"] = loratools.svd_extract(
        place / "merged", SHARDED, rule=RankRule(rank=2), output=place / "out", check=True
    )
    return {verb: as_read(report) for verb, report in made.items()}


def figures(found: CardFacts) -> dict[tuple[str, str, str | None], str]:
    return {(figure.verb, figure.label, figure.target): figure.value for figure in found.figures}


def test_merge_gives_inputs_weights_and_fidelity(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["merge"]
    found = facts_of(REPO, open_checkpoint(SINGLE), read_steps([report]))
    assert found.sources == (
        CardSource("merge", "base", "stories260k-bf16-sharded"),
        CardSource("merge", "adapter", "small", 0.5),
        CardSource("merge", "adapter", "plain", 1.0),
    )
    errors = {t["name"]: t["fidelity"]["relative_error"] for t in report["tensors"]}
    worst = max(errors, key=errors.__getitem__)
    values = figures(found)
    assert values[("merge", "the same, worst weight", worst)] == f"{100 * errors[worst]:.3g} %"
    total = 100 * report["fidelity"]["relative_error"]
    assert values[("merge", "update lost to rounding", None)] == f"{total:.3g} %"


def test_combine_gives_weights_method_and_energy(reports: dict[str, dict[str, Any]]) -> None:
    found = facts(reports=[reports["combine"]], name="adapters/plain")
    assert found.sources == (
        CardSource("combine", "adapter", "small", 1.0, "ties"),
        CardSource("combine", "adapter", "plain", 0.25, "ties"),
    )
    energy = f"{100 * reports['combine']['total']['energy']:.6g} %"
    assert figures(found)[("combine", "energy kept", None)] == energy


def test_resize_and_svd_extract_give_energy_and_error(reports: dict[str, dict[str, Any]]) -> None:
    both = [reports["svd-extract"], reports["resize"]]
    found = facts("adapters/plain", both)
    assert [(source.verb, source.role, source.name) for source in found.sources] == [
        ("svd-extract", "tuned model", "merged"),
        ("svd-extract", "base", "stories260k-bf16-sharded"),
        ("resize", "adapter", "small"),
    ]
    for report, verb in zip(both, ("svd-extract", "resize"), strict=True):
        values = figures(found)
        assert values[(verb, "energy kept", None)] == f"{100 * report['total']['energy']:.6g} %"
        error = f"{100 * report['total']['relative_error']:.3g} %"
        assert values[(verb, "relative error", None)] == error
    assert ("svd-extract", "distance of the files merged back", None) in figures(found)


def test_rescale_gives_strengths_by_pattern(reports: dict[str, dict[str, Any]]) -> None:
    values = figures(facts("adapters/plain", [reports["rescale"]]))
    assert values[("rescale", "strength", "model.layers.*.self_attn.q_proj.weight")] == "× 0.5"
    same = {"adapter": "a", "strengths": {"x": 0.5, "y": 0.5}}
    assert figures(facts("adapters/plain", [same])) == {("rescale", "strength", "*"): "× 0.5"}
    various = {"adapter": "a", "strengths": {"l.0.x": 0.5, "l.1.x": 2, "l.0.y": None}}
    assert facts("adapters/plain", [various]).figures == (
        CardFigure("rescale", "strength", "× 0.5 to 2", "l.*.x"),
        CardFigure("rescale", "strength", "no longer 0", "l.*.y"),
    )
    cured = [{"trap": "rslora"}, {"trap": "zero-alpha"}, {"trap": "rslora"}]
    repaired = CardFigure("rescale", "repaired", "rslora, zero-alpha")
    assert repaired in facts("adapters/plain", [same | {"repairs": cured}]).figures


def test_no_folder_of_this_machine_is_in_a_card(
    reports: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    found = facts("adapters/plain", list(reports.values()))
    card = complete_card(None, found)
    folders = {*FIXTURES.parts[1:], "private", *tmp_path.parts[1:-1]} - {"tests", "plain", "work"}
    assert [folder for folder in folders if re.search(rf"\b{re.escape(folder)}[/\\0]", card)] == []
    for report in (
        {"adapter": "/models/private/x/", "strengths": {}},
        {"adapter": "C:\\me\\secret\\x", "strengths": {}},
    ):
        assert [s.name for s in facts("adapters/plain", [report]).sources] == ["x"]
    nameless: list[dict[str, Any]] = [
        {"adapter": name, "strengths": {}} for name in ("..", ".", "/", "")
    ]
    names = {source.name for source in facts("adapters/plain", nameless).sources}
    assert names == {"a local folder"}


def test_bases_of_reports_on_the_hub_are_named_first(reports: dict[str, dict[str, Any]]) -> None:
    named = reports["merge"] | {"base": f"hf://ann/stories@{'a' * 40}"}
    found = facts_of(REPO, open_checkpoint(SINGLE), read_steps([named, reports["merge"]]))
    assert found.base_models == ("ann/stories",)
    assert found.sources[0].name == f"hf://ann/stories@{'a' * 40}"
    assert facts("adapters/plain", [named]).base_models == ("ann/stories",)
    assert facts("adapters/plain", [named], base_models=[]).base_models == ()


@pytest.mark.parametrize("overlay", ["/models/secret/update", "hf://ann/update"])
def test_a_base_with_overlays_is_named_without_folders(
    overlay: str, reports: dict[str, dict[str, Any]]
) -> None:
    commit = f"hf://ann/stories@{'a' * 40}"
    for base, shown in ((commit, commit), ("/models/base", "base")):
        named = reports["merge"] | {"base": f"{base}+{overlay}"}
        found = facts_of(REPO, open_checkpoint(SINGLE), read_steps([named]))
        assert found.base_models == (("ann/stories",) if base == commit else ())
        assert found.sources[0].name == f"{shown}+{overlay.removeprefix('/models/secret/')}"


def test_values_that_are_not_finite_are_said_to_be_so() -> None:
    total = {"energy": 0.5, "relative_error": math.nan}
    report: dict[str, Any] = {"adapter": "a", "total": total, "targets": [], "rounding": None}
    assert [f.value for f in facts("adapters/plain", [report]).figures] == ["50 %", "not finite"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rescale", {"strengths": 1}), r"report 1 \(rescale\): 'strengths' is not a dict"),
        (("rescale", {"strengths": {"a": "1"}}), r"report 1 \(rescale\): 'a' is not a number"),
        (("rescale", {"adapter": None}), r"report 1 \(rescale\): 'adapter' is null"),
        (("combine", {"weights": [1]}), r"report 1 \(combine\): .* do not go together"),
        (("combine", {"weights": [True, 1]}), r"report 1 \(combine\): weight is not a number"),
        (("merge", {"adapters": [1]}), r"report 1 \(merge\): adapters\[0\] is not an object"),
        (("merge", {"adapters": [{}]}), r"report 1 \(merge\): adapters\[0\]: has no 'path'"),
        (("resize", {"total": []}), r"report 1 \(resize\): 'total' is not a dict"),
    ],
)
def test_report_with_a_wrong_field_is_refused(
    reports: dict[str, dict[str, Any]], change: tuple[str, dict[str, Any]], message: str
) -> None:
    verb, fields = change
    with pytest.raises(FormatError, match=message):
        facts("adapters/plain", [reports[verb] | fields])


def test_unknown_report_is_refused_by_its_number(reports: dict[str, dict[str, Any]]) -> None:
    inspected = loratools.inspect(PLAIN).to_json()
    with pytest.raises(
        FormatError, match=r"report 2: has path, format, .* not the JSON of combine"
    ):
        facts("adapters/plain", [reports["resize"], inspected])
    with pytest.raises(FormatError, match="report 1: is not an object"):
        facts("adapters/plain", [[]])  # type: ignore[list-item]


# Usage


def usage(card: str, language: str) -> str:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)
    (code,) = found
    return code


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(1, 60, 7)[None]).logits
    return found


@pytest.mark.oracle
@pytest.mark.filterwarnings(*(mark.args[0] for mark in WARNED))
def test_usage_of_an_adapter_and_of_the_merged_model_run_and_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A float32 forward pass of 5 layers differs by far less than a thousandth."""
    oracle("peft")
    card = complete_card(None, facts("adapters/plain", base_models=["ann/stories"]))
    merged = tmp_path / "merged"
    command = usage(card, "sh").replace("hf://ann/stories", str(SINGLE))
    words = shlex.split(command.replace(f"hf://{REPO}", str(PLAIN)))
    assert words[0] == "loratools"
    assert run_here(capsys, *[str(merged) if w == "merged" else w for w in words[1:]]).code == 0
    report = as_read(loratools.merge(SINGLE, PLAIN, output=None))
    model_card = complete_card(None, facts_of(REPO, open_checkpoint(merged), read_steps([report])))
    adapted: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    code = usage(card, "python").replace("ann/stories", str(SINGLE)).replace(REPO, str(PLAIN))
    exec(code, adapted)
    exec(usage(model_card, "python").replace(REPO, str(merged)), whole)
    assert type(adapted["model"]).__name__ == "PeftModelForCausalLM"
    one, other = logits(adapted["model"]), logits(whole["model"])
    assert (one - other).abs().max() < 1e-3 * one.abs().max()
    with adapted["model"].disable_adapter():
        assert (logits(adapted["model"]) - other).abs().max() > 0.1
