"""What an extraction keeps is certified; what a LoRA cannot hold is stored, named or refused."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.errors import LoratoolsError, MatchError, NonFiniteError, UnsupportedError
from loratools.extracting import principal
from loratools.extracting.difference import Difference, Memory, Norms
from loratools.extracting.pairing import natural, pair_up
from loratools.extracting.plan import ExtractOptions
from loratools.extracting.report import ExtractReport
from loratools.extracting.svd_extract import svd_extract
from loratools.extracting.writing import ExtractRun
from loratools.files.checkpoints import open_checkpoint
from loratools.io.source import Stored
from loratools.lowrank import krylov, right
from loratools.lowrank.ranks import RankRule, Wanted
from loratools.lowrank.right import right_vectors
from loratools.lowrank.settle import first_question, settle
from loratools.lowrank.truncation import TargetSpectrum
from tests.adapters import lora_of, product
from tests.merged import write_base
from tests.narrowing import present

LINEAR = "model.layers.0.proj.weight"
OTHER = "model.layers.1.proj.weight"
NORM = "model.layers.0.norm.weight"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(seed: int = 0) -> dict[str, torch.Tensor]:
    return {
        LINEAR: random(20, 12, seed=seed),
        OTHER: random(8, 30, seed=seed + 1),
        NORM: 1 + 0.1 * random(12, seed=seed + 2),
        "model.layers.0.proj.bias": random(20, seed=seed + 3),
    }


def changed(
    tensors: dict[str, torch.Tensor], changes: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {name: tensors[name] + changes.get(name, 0) for name in tensors}


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., ExtractReport]:
    """A base, and a function that writes a tuned model and extracts an adapter of it."""
    tensors = model()
    base = write_base(tmp_path / "base", tensors)

    def extract(
        changes: dict[str, torch.Tensor],
        rule: RankRule | None = None,
        dtype: torch.dtype = torch.float32,
        **arguments: Any,
    ) -> ExtractReport:
        tuned = tmp_path / f"tuned{len(list(tmp_path.iterdir()))}"
        write_base(tuned, {n: t.to(dtype) for n, t in changed(tensors, changes).items()})
        arguments = {"output": tmp_path / "out", "check": True, **arguments}
        report: ExtractReport = svd_extract(
            tuned, base, rule=rule or RankRule(energy=1.0), **arguments
        )
        return report

    return extract


def dense(folder: Path, target: str) -> torch.Tensor:
    return product(lora_of(loratools.open_adapter(folder).updates[target]))


# Certificates


def test_certificate_is_the_tail_of_the_singular_values(
    folders: Callable[..., ExtractReport], tmp_path: Path
) -> None:
    """In float64, of the difference of the two files: both sides round to 1e-15 of the total."""
    report = folders({LINEAR: random(20, 12, seed=9)}, RankRule(rank=4))
    tuned = load_file(present(report.plan.pairing.tuned.path) / "model.safetensors")[LINEAR]
    difference = tuned.double() - model()[LINEAR].double()
    squares = torch.linalg.svdvals(difference).square()
    certificate = report.truncations[LINEAR]
    assert certificate.total == pytest.approx(squares.sum().item(), rel=1e-13)
    assert certificate.lost == pytest.approx(squares[4:].sum().item(), rel=1e-12)
    lost = (difference - dense(tmp_path / "out", LINEAR)).norm().item()
    assert lost == pytest.approx(math.sqrt(certificate.lost), rel=1e-6)
    assert present(report.check).agrees
    assert present(report.check).distance == pytest.approx(math.sqrt(certificate.lost), rel=1e-6)


def test_a_merged_adapter_comes_back(fixtures: Path, tmp_path: Path) -> None:
    """A float32 weight of about 1 holds an update of about 1e-2 to 24 - 7 bits."""
    base, adapter = fixtures / "stories260k", fixtures / "adapters/plain"
    loratools.merge(base, adapter, output=tmp_path / "tuned")
    report = svd_extract(
        tmp_path / "tuned", base, output=tmp_path / "out", rule=RankRule(rank=8), check=True
    )
    assert report.total.error < 1e-5
    assert present(report.check).agrees
    updates = loratools.open_adapter(adapter).updates
    assert set(report.plan.factored) == set(updates)
    for target, update in updates.items():
        expected = product(lora_of(update))
        found = dense(tmp_path / "out", target)
        assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_check_allows_for_the_rounding_of_factors(
    folders: Callable[..., ExtractReport], dtype: str
) -> None:
    options = ExtractOptions(dtype=dtype)
    report = folders({LINEAR: random(20, 12, seed=9)}, RankRule(rank=3), options=options)
    assert present(report.check).agrees
    assert present(report.check).distance != pytest.approx(present(report.check).expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_energy_and_error_rules_hold_for_each_target(
    folders: Callable[..., ExtractReport], dtype: torch.dtype
) -> None:
    changes = {LINEAR: random(20, 12, seed=9), OTHER: random(8, 30, seed=10)}
    report = folders(changes, RankRule(energy=0.8), dtype=dtype)
    for target in changes:
        kept = report.truncations[target]
        assert kept.energy >= 0.8
        assert 0 < kept.rank < 8
    report = folders(changes, RankRule(error=0.3), dtype=dtype, run=ExtractRun(overwrite=True))
    assert all(truncation.error <= 0.3 for truncation in report.truncations.values())


def test_budget_is_spent_over_all_targets(
    folders: Callable[..., ExtractReport], tmp_path: Path
) -> None:
    changes = {LINEAR: random(20, 12, seed=9), OTHER: 0.01 * random(8, 30, seed=10)}
    report = folders(changes, RankRule(parameters=32 * 5))
    assert report.truncations[LINEAR].rank == 5
    assert report.truncations[OTHER].rank == 0
    assert list(loratools.open_adapter(tmp_path / "out").updates) == [LINEAR]
    assert present(report.check).agrees
    assert [target for target, _ in report.worst()] == [LINEAR, OTHER]


def test_more_ranks_than_there_are_values_are_zeros(
    folders: Callable[..., ExtractReport], tmp_path: Path
) -> None:
    report = folders({LINEAR: random(20, 1) @ random(1, 12)}, RankRule(rank=15))
    assert report.truncations[LINEAR].rank == 15
    lora = lora_of(loratools.open_adapter(tmp_path / "out").updates[LINEAR])
    assert lora.rank == 15
    assert lora.scaling.value == 1
    assert report.total.error < 1e-6


# What is stored


def test_unchanged_tensors_store_nothing(
    folders: Callable[..., ExtractReport], tmp_path: Path
) -> None:
    report = folders({LINEAR: random(20, 12, seed=9)})
    stored = load_file(tmp_path / "out/adapter_model.safetensors")
    assert {name.split(".lora_")[0] for name in stored} == {"base_model.model.model.layers.0.proj"}
    assert report.plan.unchanged == 3


def test_norms_and_biases_are_kept_exactly_or_dropped_and_counted(
    folders: Callable[..., ExtractReport], tmp_path: Path
) -> None:
    changes = {
        LINEAR: random(20, 12, seed=9),
        NORM: 0.1 * random(12, seed=4),
        "model.layers.0.proj.bias": random(20, seed=5),
    }
    report = folders(changes)
    assert set(report.plan.whole) == {NORM, "model.layers.0.proj.bias"}
    assert present(report.check).relative < 1e-6
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["bias"] == "all"
    assert config["modules_to_save"] == ["model.layers.0.norm"]
    options = ExtractOptions(keep_residual=False)
    report = folders(changes, options=options, run=ExtractRun(overwrite=True))
    assert not report.plan.whole
    lost = sum(changes[n].double().square().sum().item() for n in report.plan.left_out)
    assert report.total.lost == pytest.approx(lost, rel=1e-6)
    assert present(report.check).agrees
    assert "no place in a LoRA" in report.notes[0]


def test_skipped_changes_count_as_lost(folders: Callable[..., ExtractReport]) -> None:
    changes = {LINEAR: random(20, 12, seed=9), OTHER: random(8, 30, seed=10)}
    report = folders(changes, options=ExtractOptions(skip=("*layers.1*",)))
    assert list(report.plan.factored) == [LINEAR]
    assert report.total.lost == pytest.approx(changes[OTHER].square().sum().item(), rel=1e-5)
    assert present(report.check).agrees


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.", "_orig_mod.model."),
        ("layers.0.", "layers.0._orig_mod."),
        ("model.", "module.model."),
    ],
)
@pytest.mark.parametrize("is_base_wrapped", [True, False])
def test_targets_have_no_wrappers_of_the_models(
    tmp_path: Path, old: str, new: str, is_base_wrapped: bool
) -> None:
    def wrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}

    tuned = wrapped(changed(model(), {LINEAR: random(20, 12, seed=9)}))
    base = wrapped(model()) if is_base_wrapped else model()
    folders = [write_base(tmp_path / n, t) for n, t in (("tuned", tuned), ("base", base))]
    report = svd_extract(*folders, output=tmp_path / "out", rule=RankRule(rank=2), check=True)
    assert list(report.plan.factored) == [LINEAR]
    assert present(report.check).agrees
    said = [note for note in report.notes if "without the wrappers" in note]
    assert [note.partition(":")[0] for note in said] == [
        str(f) for f in folders[: 1 + is_base_wrapped]
    ]


@pytest.mark.parametrize("field", ["only", "skip", "full"])
def test_glob_that_matches_no_tensor_is_refused_with_the_nearest(
    folders: Callable[..., ExtractReport], field: str
) -> None:
    globs: dict[str, Any] = {field: ("*layers.0*", "layers.1")}
    options = ExtractOptions(**globs)
    with pytest.raises(MatchError, match=rf"{field}=\['layers.1'\].*did you mean '\*.layers.1.\*'"):
        folders({LINEAR: random(20, 12, seed=9)}, options=options)


def test_full_modules_are_stored_whole(
    folders: Callable[..., ExtractReport], tmp_path: Path
) -> None:
    changes = {LINEAR: random(20, 12, seed=9), OTHER: random(8, 30, seed=10)}
    report = folders(changes, options=ExtractOptions(full=("*layers.0*",)))
    assert set(report.plan.whole) == {LINEAR, "model.layers.0.proj.bias"}
    assert list(report.plan.factored) == [OTHER]
    assert present(report.check).agrees


def test_rounding_is_no_change(tmp_path: Path) -> None:
    """A base in float32, the same in bfloat16, and one matrix that did change."""
    tensors = model()
    base = write_base(tmp_path / "base", tensors)
    after = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    after[LINEAR] = (tensors[LINEAR] + random(20, 12, seed=9)).bfloat16()
    tuned = write_base(tmp_path / "tuned", after)
    for dry_run in (True, False):
        report = svd_extract(tuned, base, output=tmp_path / "out", rank=1, dry_run=dry_run)
        assert list(report.plan.changes) == [LINEAR]


def test_a_recomputed_weight_is_noise_and_min_change_decides(tmp_path: Path) -> None:
    """One element of 40,000 that falls to the other side: less than the default; 0 keeps it."""
    tensors = {LINEAR: random(200, 200).bfloat16(), OTHER: random(8, 8).bfloat16()}
    base = write_base(tmp_path / "base", tensors)
    after = {LINEAR: tensors[LINEAR].clone(), OTHER: tensors[OTHER] + 1}
    position = tensors[LINEAR].abs().flatten().argmin()
    after[LINEAR].view(torch.int16).flatten()[position] += 1
    tuned = write_base(tmp_path / "tuned", after)
    rule = RankRule(rank=1)
    for dry_run in (True, False):
        report = svd_extract(tuned, base, output=tmp_path / "out", rule=rule, dry_run=dry_run)
        assert "as rounding makes" in report.plan.left_out[LINEAR].reason
        assert list(report.plan.factored) == [OTHER]
        assert set(report.plan.changes) == {LINEAR, OTHER}
        assert report.plan.unchanged == 0
        options = ExtractOptions(min_change=0)
        run = ExtractRun(overwrite=True)
        kept = svd_extract(
            tuned,
            base,
            output=tmp_path / "out",
            rule=rule,
            options=options,
            run=run,
            dry_run=dry_run,
        )
        assert set(kept.plan.factored) == {LINEAR, OTHER}
        assert not kept.plan.left_out


def test_a_change_of_just_the_least_that_counts_is_kept() -> None:
    """A relative change of sqrt(1 / 4)."""
    norms = Norms(change=1.0, weight=4.0)
    assert ExtractOptions(min_change=0.5).as_rounding(norms) is None
    assert ExtractOptions(min_change=math.nextafter(0.5, 1)).as_rounding(norms) is not None
    same = replace(norms, noise=0.5)
    assert ExtractOptions().as_rounding(same) is None
    assert ExtractOptions().as_rounding(replace(same, noise=0.51)) is not None


def test_nothing_but_rounding_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principal, "right_vectors", None)  # which nobody asks
    weight = random(200, 200).bfloat16()
    after = weight.clone()
    after.view(torch.int16).flatten()[weight.abs().flatten().argmin()] += 1
    base = write_base(tmp_path / "base", {LINEAR: weight})
    tuned = write_base(tmp_path / "tuned", {LINEAR: after})
    for dry_run in (True, False):
        with pytest.raises(LoratoolsError, match="nothing to extract: 1 change is left out"):
            svd_extract(tuned, base, output=tmp_path / "out", rank=1, dry_run=dry_run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_a_budget_is_not_kept_back_for_what_is_left_out(tmp_path: Path) -> None:
    """Of the two, one is rounding: its share goes to the other."""
    tensors = {LINEAR: random(200, 200).bfloat16(), OTHER: random(40, 40).bfloat16()}
    after = {LINEAR: tensors[LINEAR].clone(), OTHER: tensors[OTHER] + random(40, 40, seed=1)}
    after[LINEAR].view(torch.int16).flatten()[tensors[LINEAR].abs().flatten().argmin()] += 1
    base, tuned = (
        write_base(tmp_path / name, each) for name, each in (("base", tensors), ("tuned", after))
    )
    rule = RankRule(parameters=80 * 12, min_rank=2)
    report = svd_extract(tuned, base, output=tmp_path / "out", rule=rule)
    assert report.truncations[OTHER].rank == 12
    report = svd_extract(
        tuned, base, output=tmp_path / "out", size=6000, run=ExtractRun(overwrite=True)
    )
    file = tmp_path / "out/adapter_model.safetensors"
    assert 6000 - 80 * 4 - 200 < file.stat().st_size <= 6000


def test_a_size_is_not_spent_on_headers_of_what_is_left_out(tmp_path: Path) -> None:
    """Those of 39 matrices that rounding changed would take more than all of it."""
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(40)]
    tensors = {name: random(100, 100, seed=n).bfloat16() for n, name in enumerate(names)}
    after = {name: tensor.clone() for name, tensor in tensors.items()}
    for tensor in after.values():
        tensor.view(torch.int16).flatten()[tensor.abs().flatten().argmin()] += 1
    after[names[0]] += random(100, 100, seed=99).bfloat16()
    base, tuned = write_base(tmp_path / "base", tensors), write_base(tmp_path / "tuned", after)
    svd_extract(tuned, base, output=tmp_path / "out", size=8000)
    written = (tmp_path / "out/adapter_model.safetensors").stat().st_size
    assert 8000 - 200 * 4 - 600 < written <= 8000


@pytest.mark.parametrize("seed", range(4))
def test_a_change_whose_energy_is_in_few_rows_is_certified(tmp_path: Path, seed: int) -> None:
    """Where rounding errors of products in float32 do not average out."""
    change = torch.zeros(300, 300)
    change[0] = random(300, seed=seed).abs()
    change[1:3] = 0.03 * random(2, 300, seed=seed + 10)
    before = {LINEAR: 1e-3 * random(300, 300, seed=seed + 20)}
    base = write_base(tmp_path / "base", before)
    tuned = write_base(tmp_path / "tuned", {LINEAR: before[LINEAR] + change})
    report = svd_extract(tuned, base, output=tmp_path / "out", rule=RankRule(rank=1), check=True)
    assert present(report.check).agrees


def test_check_allows_for_what_the_certificate_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for X V there is one more pass in float64, and nothing is open."""
    before = {LINEAR: random(400, 320)}
    base = write_base(tmp_path / "base", before)
    tuned = write_base(tmp_path / "tuned", {LINEAR: before[LINEAR] + random(400, 320, seed=1)})
    run, rule = ExtractRun(overwrite=True), RankRule(rank=4)
    checks = []
    for room in (2**21, 0):
        monkeypatch.setattr(right, "_ROOM", room)
        report = svd_extract(tuned, base, output=tmp_path / "out", rule=rule, check=True, run=run)
        assert present(report.check).agrees
        checks.append(present(report.check))
    unsure = 4 * krylov._rounding(torch.empty(0, 320)) * checks[0].change ** 2
    expected = unsure / checks[0].expected
    assert checks[0].rounding - checks[1].rounding == pytest.approx(expected, rel=1e-3)


def test_matrices_of_a_module_that_is_stored_whole_are_counted(tmp_path: Path) -> None:
    before = {"block.weight": random(6, 5), "block.scale": random(5), OTHER: random(8, 8)}
    after = {name: tensor + 1 for name, tensor in before.items()}
    base, tuned = write_base(tmp_path / "base", before), write_base(tmp_path / "tuned", after)
    for dry_run in (True, False):
        report = svd_extract(
            tuned, base, output=tmp_path / "out", rank=1, check=True, dry_run=dry_run
        )
        assert set(report.plan.whole) == {"block.weight", "block.scale"}
        assert set(report.plan.changes) == set(before)
        assert report.plan.changes["block.weight"].change == pytest.approx(30, rel=1e-6)
    assert present(report.check).agrees


def test_models_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first rows of each tensor, by which it is told from one that is the same."""
    before = {f"{name}.weight": random(3000, 400).bfloat16() for name in "abc"}
    after = {**before, "b.weight": before["b.weight"] + 0.1, "c.weight": before["c.weight"] - 0.1}
    base, tuned = write_base(tmp_path / "base", before), write_base(tmp_path / "tuned", after)
    rows = []
    read = Stored.read_rows_into

    def counted(stored: Stored, out: torch.Tensor, begin: int) -> None:
        rows.append(len(out))
        read(stored, out, begin)

    monkeypatch.setattr(Stored, "read_rows_into", counted)
    svd_extract(tuned, base, output=tmp_path / "out", rule=RankRule(rank=3))
    assert sum(rows) == 2 * 2 * 3000


def test_default_noise_is_that_of_rounding(tmp_path: Path) -> None:
    """Measured on Gaussian weights: one rounding to bfloat16, and float32 computed in two ways."""
    weight = random(600, 600).double()
    files = {
        "wide": weight.float(),
        "narrow": weight.bfloat16(),
        "again": (weight * (1 + 2.0**-24 * random(600, 600, seed=1).sign())).bfloat16(),
    }
    stored = {
        name: open_checkpoint(write_base(tmp_path / name, {"w": tensor})).tensors["w"]
        for name, tensor in files.items()
    }
    once = Difference(stored["narrow"], stored["wide"])
    assert once.noise == pytest.approx(1.53e-3, rel=1e-2)
    assert 0.9 * once.noise < once.norms().relative < 1.2 * once.noise
    twice = Difference(stored["again"], stored["narrow"])
    assert twice.noise == pytest.approx(2.08e-5, rel=1e-2)
    assert twice.norms().relative < 1.2 * twice.noise


def test_convolutions_are_flattened(tmp_path: Path) -> None:
    before = {"conv.weight": random(6, 4, 3, 3), "linear.weight": random(5, 5)}
    after = {**before, "conv.weight": before["conv.weight"] + random(6, 4, 3, 3, seed=1)}
    base, tuned = write_base(tmp_path / "base", before), write_base(tmp_path / "tuned", after)
    report = svd_extract(
        tuned, base, output=tmp_path / "out", rule=RankRule(energy=1.0), check=True
    )
    assert present(report.check).relative < 1e-6
    stored = load_file(tmp_path / "out/adapter_model.safetensors")
    assert stored["base_model.model.conv.lora_A.weight"].shape[1:] == (4, 3, 3)
    assert stored["base_model.model.conv.lora_B.weight"].shape[2:] == (1, 1)


@pytest.mark.parametrize("kernel", [(4,), (3, 3), (2, 2, 2)])
def test_depthwise_convolutions_are_stored_whole(kernel: tuple[int, ...], tmp_path: Path) -> None:
    """PEFT's LoRA of one has no counterpart in the shape of its weight."""
    before = {"conv.weight": random(6, 1, *kernel), "linear.weight": random(5, 5)}
    after = {**before, "conv.weight": before["conv.weight"] + random(6, 1, *kernel, seed=1)}
    base, tuned = write_base(tmp_path / "base", before), write_base(tmp_path / "tuned", after)
    report = svd_extract(tuned, base, output=tmp_path / "out", rule=RankRule(energy=1.0))
    assert set(report.plan.whole) == {"conv.weight"}
    assert not report.plan.factored


# Names and shards


def test_shards_and_jobs_do_not_show(fixtures: Path, tmp_path: Path) -> None:
    base = fixtures / "stories260k-bf16-sharded"
    loratools.merge(base, fixtures / "adapters/plain", output=tmp_path / "sharded")
    (tmp_path / "single").mkdir()
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted((tmp_path / "sharded").glob("*.safetensors")):
        tensors |= load_file(file)
    save_file(dict(reversed(tensors.items())), tmp_path / "single/model.safetensors")
    shutil.copy(base / "config.json", tmp_path / "single")
    found = set()
    for name, jobs in (("sharded", 1), ("single", 3)):
        run = ExtractRun(jobs=jobs, overwrite=True)
        svd_extract(
            tmp_path / name, base, output=tmp_path / "out", rule=RankRule(energy=0.9), run=run
        )
        found.add((tmp_path / "out/adapter_model.safetensors").read_bytes())
    assert len(found) == 1


def test_what_is_held_does_not_show(tmp_path: Path) -> None:
    before = {"a.weight": random(3000, 400).bfloat16()}
    after = {"a.weight": before["a.weight"] + 0.1}
    base, tuned = write_base(tmp_path / "base", before), write_base(tmp_path / "tuned", after)
    pair = pair_up(*(open_checkpoint(p) for p in (tuned, base)))
    difference = Difference(pair.pairs["a.weight"].after, pair.pairs["a.weight"].before)
    found = []
    for room in (0, 10**9):
        with difference.read(Memory(room)) as (matrix, _):
            rows: dict[int, torch.Tensor] = {}
            right = right_vectors(matrix, Wanted(rank=3), rows.__setitem__, seed=1)
        found.append((right.values, torch.cat(list(rows.values()), 1)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_device_extracts_what_the_processor_extracts(
    tmp_path: Path, device: torch.device
) -> None:
    before = {"a.weight": random(600, 400).bfloat16()}
    after = {"a.weight": before["a.weight"] + 0.1 * random(600, 4) @ random(4, 400)}
    after["a.weight"] = after["a.weight"].bfloat16()
    base, tuned = write_base(tmp_path / "base", before), write_base(tmp_path / "tuned", after)
    pair = pair_up(*(open_checkpoint(p) for p in (tuned, base))).pairs["a.weight"]
    one, other = (
        principal.principal(
            Difference(pair.after, pair.before),
            Wanted(rank=4),
            least=0,
            dtype="F32",
            seed=0,
            memory=Memory(10**9),
            device=name,
        )
        for name in (None, str(device))
    )
    assert other.norms == one.norms
    torch.testing.assert_close(other.values, one.values, rtol=1e-4, atol=0)
    product = one.rows.T @ one.down
    assert (other.rows.T @ other.down - product).norm() <= 1e-2 * product.norm()


def test_prefixes_are_matched_and_the_models_own_name_is_used(tmp_path: Path) -> None:
    before = {"layers.0.q.weight": random(6, 5), "layers.10.q.weight": random(6, 5)}
    after = {f"model.{name}": tensor + 1 for name, tensor in before.items()}
    base, tuned = write_base(tmp_path / "base", before), write_base(tmp_path / "tuned", after)
    report = svd_extract(tuned, base, output=tmp_path / "out", rule=RankRule(rank=1), check=True)
    assert list(report.plan.factored) == ["model.layers.0.q.weight", "model.layers.10.q.weight"]
    assert present(report.check).agrees


def test_layers_are_in_the_order_of_their_numbers() -> None:
    names = ["a.10.b", "a.9.b", "a.b", "a.9.a"]
    assert sorted(names, key=natural) == ["a.b", "a.9.a", "a.9.b", "a.10.b"]


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def from_tied(fixtures: Path, tmp_path: Path) -> Callable[..., ExtractReport]:
    """Extracts from a tied model, stored twice in the base and once in the tuned one."""
    tensors = load_file(fixtures / "stories260k/model.safetensors")
    tensors.pop(HEAD)
    tensors[EMBEDDING] = tensors[EMBEDDING] + 0.1 * random(512, 64)
    config = json.loads((fixtures / "stories260k/config.json").read_text())
    tuned = write_base(tmp_path / "tuned", tensors, config)

    def extract(
        progress: Callable[[int, int], None] | None = None, **options: Any
    ) -> ExtractReport:
        return svd_extract(
            tuned,
            fixtures / "stories260k",
            output=tmp_path / "out",
            rule=RankRule(rank=8),
            options=ExtractOptions(**options),
            check=True,
            run=ExtractRun(progress=progress),
        )

    return extract


@pytest.mark.parametrize("end", [EMBEDDING, HEAD])
def test_both_ends_of_a_tied_matrix_are_whole_where_one_is(
    from_tied: Callable[..., ExtractReport], end: str
) -> None:
    report = from_tied(full=(end,))
    assert set(report.plan.whole) == {EMBEDDING, HEAD}
    assert not report.plan.factored
    assert present(report.check).relative < 1e-6


@pytest.mark.parametrize(("skipped", "kept"), [(EMBEDDING, HEAD), (HEAD, EMBEDDING)])
def test_one_end_of_a_tied_matrix_may_be_left(
    from_tied: Callable[..., ExtractReport], skipped: str, kept: str
) -> None:
    report = from_tied(skip=(skipped,))
    assert set(report.plan.factored) == {kept}
    assert report.plan.left_out[skipped].norms == report.plan.changes[kept]
    assert present(report.check).agrees


def test_a_tied_head_follows_its_embedding(
    from_tied: Callable[..., ExtractReport], tmp_path: Path
) -> None:
    """Both ends get the change."""
    seen = []
    report = from_tied(progress=lambda done, total: seen.append((done, total)))
    done, total = seen[-1]
    assert done == total
    assert set(report.plan.factored) == {EMBEDDING, HEAD}
    updates = loratools.open_adapter(tmp_path / "out").updates
    embedding, head = lora_of(updates[EMBEDDING]), lora_of(updates[HEAD])
    assert torch.equal(embedding.up.read(), head.up.read())
    assert torch.equal(embedding.down.read(), head.down.read())
    assert present(report.check).agrees


# Refusals


@pytest.mark.parametrize(
    ("after", "error", "message"),
    [
        ({"new.weight": random(3, 3)}, MatchError, "new.weight: the base has no such tensor"),
        ({LINEAR: random(20, 13)}, MatchError, r"is \[20, 13\] and \[20, 12\] in the base"),
        ({NORM: None}, MatchError, "the tuned model has no such tensor"),
        ({}, LoratoolsError, "nothing to extract"),
        ({LINEAR: torch.full((20, 12), math.nan)}, NonFiniteError, "NaN"),
        ({"model.scale": torch.ones(())}, UnsupportedError, "beside modules"),
    ],
)
def test_what_cannot_be_extracted_is_named(
    after: dict[str, Any], error: type[LoratoolsError], message: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", {**model(), "model.scale": torch.zeros(())})
    tensors = {**model(), "model.scale": torch.zeros(()), **after}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    tuned = write_base(tmp_path / "tuned", tensors)
    with pytest.raises(error, match=message):
        svd_extract(tuned, base, output=tmp_path / "out", rule=RankRule(rank=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_packed_and_integer_weights_that_changed_are_refused(tmp_path: Path) -> None:
    codes = torch.arange(20, dtype=torch.int8).reshape(4, 5)
    base = write_base(tmp_path / "base", {LINEAR: codes})
    tuned = write_base(tmp_path / "tuned", {LINEAR: codes + 1})
    with pytest.raises(UnsupportedError, match=r"has changed and is stored packed \(I8\)"):
        svd_extract(tuned, base, output=None, rule=RankRule(rank=1))
    base = write_base(tmp_path / "indices", {"model.ids": codes})
    tuned = write_base(tmp_path / "others", {"model.ids": codes + 1})
    with pytest.raises(UnsupportedError, match="stored as I8, codes or indices"):
        svd_extract(tuned, base, output=None, rule=RankRule(rank=1))


def test_a_new_head_can_be_stored_whole(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForSequenceClassification"]}
    base = write_base(tmp_path / "base", model())
    after = {**model(), OTHER: model()[OTHER] + 1, "score.weight": random(2, 12)}
    tuned = write_base(tmp_path / "tuned", after, config)
    svd_extract(
        tuned,
        base,
        output=tmp_path / "out",
        rule=RankRule(rank=1),
        options=ExtractOptions(full=("score*",)),
        check=True,
    )
    fields = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert fields["task_type"] == "SEQ_CLS"
    assert fields["modules_to_save"] == ["score"]


@pytest.mark.parametrize("task", ["SequenceClassification", "QuestionAnswering"])
def test_no_task_is_named_whose_head_is_not_stored(tmp_path: Path, task: str) -> None:
    """PEFT would look for the head, and make one up."""
    config = {"architectures": [f"LlamaFor{task}"]}
    base = write_base(tmp_path / "base", model(), config)
    tuned = write_base(tmp_path / "tuned", {**model(), OTHER: model()[OTHER] + 1}, config)
    svd_extract(tuned, base, output=tmp_path / "out", rule=RankRule(rank=1))
    fields = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert fields["task_type"] is None


def test_targets_of_a_classifier_have_the_names_of_its_class(tmp_path: Path) -> None:
    """PEFT loads the adapter onto that class, in which the base model has a prefix."""
    weights = {f"encoder.layer.{n}.query.weight": random(12, 12) for n in range(2)}
    base = write_base(tmp_path / "base", weights, {"architectures": ["BertModel"]})
    after = {f"bert.{name}": tensor + 1 for name, tensor in weights.items()}
    config = {"architectures": ["BertForSequenceClassification"]}
    tuned = write_base(tmp_path / "tuned", after, config)
    svd_extract(tuned, base, output=tmp_path / "out", rule=RankRule(rank=1))
    updates = loratools.open_adapter(tmp_path / "out").updates
    assert set(updates) == set(after)


# Ranks that need more than was found out


def test_settling_asks_for_more_until_the_choice_is_sure() -> None:
    """All budget goes to the one large target, which was first asked for its fair share."""
    spectra = [np.full(40, 10.0), np.full(40, 1.0)]
    asked = []

    def find(questions: Sequence[tuple[int, Wanted]]) -> "list[_Found]":
        asked.append(len(questions))
        return [
            _Found(spectra[i][: wanted.rank], float(np.square(spectra[i]).sum()))
            for i, wanted in questions
        ]

    rule = RankRule(parameters=100 * 30)
    wanted = first_question([(50, 50)] * 2, rule)
    settled = settle(find([(0, wanted), (1, wanted)]), wanted, rule, find)
    assert settled.choice.ranks == (30, 0)
    assert len(asked) >= 1


class _Found:
    def __init__(self, values: np.ndarray, energy: float) -> None:
        self._spectrum = TargetSpectrum(50, 50, values, energy)

    def spectrum(self) -> TargetSpectrum:
        return self._spectrum


def test_uniform_rank_extends_those_that_know_less(folders: Callable[..., ExtractReport]) -> None:
    changes = {LINEAR: random(20, 12, seed=9), OTHER: random(8, 1) @ random(1, 30)}
    report = folders(changes, RankRule(energy=0.9, uniform=True))
    ranks = {truncation.rank for truncation in report.truncations.values()}
    assert len(ranks) == 1
    assert present(report.check).agrees
