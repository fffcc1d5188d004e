"""The account of a merge: every tensor is in one group, and what was lost is said."""

from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools.merging.plan import MergeOptions
from loratools.merging.report import MergeReport
from tests.merged import eighths, pair, write_adapter, write_base

Q, K = pair("layers.0.q", 4, 3), pair("layers.0.k", 4, 3)


def report_of(tmp_path: Path, factors: dict[str, Any], **options: Any) -> MergeReport:
    dtype = options.pop("stored", torch.float32)
    scale = options.pop("scale", 1.0)
    names = ("layers.0.q.weight", "layers.0.k.weight", "norm.weight")
    base = write_base(tmp_path / "base", {name: eighths(4, 3).to(dtype) for name in names})
    adapter = write_adapter(tmp_path / "adapter", factors, lora_alpha=scale)
    return loratools.merge(
        base, adapter, output=tmp_path / "merged", options=MergeOptions(**options)
    )


@pytest.mark.parametrize(
    ("factors", "options", "sentence"),
    [
        (Q, {}, "2 of 2 adapter tensors applied to 1 weight; 2 base tensors unchanged"),
        (Q | K, {}, "4 of 4 adapter tensors applied to 2 weights; 1 base tensor unchanged"),
        (
            Q | K,
            {"skip": ("*.k.*",)},
            "2 of 4 adapter tensors applied to 1 weight; 2 base tensors unchanged; "
            "2 adapter tensors skipped as asked",
        ),
        (
            Q | pair("layers.9.z", 4, 3),
            {"allow_unmatched": True},
            "2 of 4 adapter tensors applied to 1 weight; 2 base tensors unchanged; "
            "2 adapter tensors left out without a match",
        ),
        (
            Q | {"layers.0.q.lora_velora_embed": eighths(3)},
            {},
            "2 of 3 adapter tensors applied to 1 weight; 2 base tensors unchanged; "
            "1 adapter tensor without effect on weights",
        ),
        (
            Q,
            {"dtype": "bfloat16"},
            "2 of 2 adapter tensors applied to 1 weight; 0 base tensors unchanged; "
            "2 converted to another dtype",
        ),
    ],
    ids=range(6),
)
def test_sentence_accounts_for_every_tensor(
    tmp_path: Path, factors: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    assert report_of(tmp_path, factors, **options).accounting == sentence


def test_groups_of_tensors_are_those_of_the_files(tmp_path: Path) -> None:
    report = report_of(tmp_path, Q | K, skip=("*.k.*",))
    account = report.to_json()["accounting"]
    assert account == {
        "adapter_tensors": 4,
        "applied": 2,
        "changing_nothing": {},
        "skipped": [f"0: base_model.model.{key}" for key in K],
        "weightless": [],
        "unmatched": [],
        "inert": {},
        "weights_changed": 1,
        "base_tensors_unchanged": 2,
    }


def test_fidelity_is_that_of_the_written_weights(tmp_path: Path) -> None:
    """Recomputed from the files: the weights are small, so all of their elements are measured."""
    from safetensors.torch import load_file

    report = report_of(tmp_path, Q, stored=torch.bfloat16, scale=0.3)
    before = load_file(tmp_path / "base" / "model.safetensors")["layers.0.q.weight"].double()
    after = load_file(tmp_path / "merged" / "model.safetensors")["layers.0.q.weight"].double()
    down, up = (factor.double() for factor in Q.values())
    intended, realised = 0.15 * up @ down, after - before
    error = float((realised - intended).norm() / intended.norm())
    cosine = float((realised * intended).sum() / realised.norm() / intended.norm())
    assert report.total is not None
    assert report.total.relative_error == pytest.approx(error, rel=2.0**-14)  # F32 sums
    assert report.total.cosine == pytest.approx(cosine, rel=2.0**-14)
    assert list(report.fidelity) == ["layers.0.q.weight"]


def test_update_too_weak_for_the_dtype_is_a_warning(tmp_path: Path) -> None:
    report = report_of(tmp_path, Q, stored=torch.bfloat16, scale=2.0**-12)
    assert report.total is not None
    assert report.total.relative_error > 0.5
    assert any("of the update is lost to rounding" in warning for warning in report.warnings)


def test_update_that_is_kept_is_no_warning(tmp_path: Path) -> None:
    report = report_of(tmp_path, Q)
    assert report.warnings == ()
    assert report.total is not None
    assert report.total.relative_error == 0


def test_dry_run_has_no_fidelity(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {"layers.0.q.weight": eighths(4, 3)})
    report = loratools.merge(base, write_adapter(tmp_path / "adapter", Q), output=None)
    assert (report.total, report.warnings, report.output) == (None, (), None)
    assert report.to_json()["fidelity"] is None


def test_rows_say_what_was_done_to_a_tensor(tmp_path: Path) -> None:
    weights = {"model.layers.0.q.weight": eighths(3, 4), "score.weight": eighths(5, 3)}
    base = write_base(tmp_path / "base", weights)
    head = {"score.weight": eighths(2, 3), "extra.weight": eighths(2, 3)}
    adapter = write_adapter(tmp_path / "adapter", Q | head, modules_to_save=["score", "extra"])
    other = write_adapter(tmp_path / "other", Q)
    report = loratools.merge(base, [adapter, other], output=None, weights=[1.0, 0.5])
    assert {tensor.name: words for tensor, words in report.rows()} == {
        "model.layers.0.q.weight": (
            "LoRA (model. added, transposed), LoRA × 0.5 (model. added, transposed)"
        ),
        "score.weight": "replaced",
        "extra.weight": "new",
    }
