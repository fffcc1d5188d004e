"""Adapters as files: budgets that hold, headers that are true, and nothing that is not a number."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from loratools import RankRule, Rescaling, combine, open_adapter, rescale, resize
from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA, Scaling
from loratools.errors import LoratoolsError, NonFiniteError, OutputError
from loratools.files.writing import budget, fitted, write_adapter
from loratools.io.dtypes import nbytes
from loratools.io.source import Held
from loratools.parts import Update
from tests.e2e.commands import FIXTURES, PLAIN, SMALL, digests, unchanged
from tests.narrowing import present

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
LOCON = FIXTURES / "kohya/sd15-locon"
SDXL = FIXTURES / "kohya/sdxl-dynamic"


def loras(path: Path) -> dict[str, LoRA]:
    """The low-rank updates by their targets."""
    items = open_adapter(path).updates.items()
    return {target: update.delta.low_rank for target, update in items if update.delta.low_rank}


# Budgets


#: At three of them the header is longer than that of the adapter as it was.
SIZES = [
    (PLAIN, 60_000),
    (PLAIN, 123_456),
    (FIXTURES / "adapters/combine-r16", 77_777),
    (FIXTURES / "adapters/embedding-vocab", 275_000),
    (FIXTURES / "adapters/gpt2-lora-bias-all", 20_000),
    (LOCON, 22_000),
    (LOCON, 26_832),
    (SDXL, 29_516),
    (SDXL, 29_760),
]


@pytest.mark.parametrize(("path", "size"), SIZES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("uniform", [False, True])
def test_file_is_at_most_as_large_as_asked_and_no_rank_more_would_fit(
    path: Path, size: int, uniform: bool, tmp_path: Path
) -> None:
    """Each rank more keeps something more, so that one that fits would have been taken."""
    output = tmp_path / ("made.safetensors" if "kohya" in str(path) else "made")
    with unchanged(path):
        report = resize(path, output=output, rule=RankRule(uniform=uniform), size=size)
    file = output if output.is_file() else output / WEIGHTS
    assert report.written is not None
    assert report.written.nbytes == file.stat().st_size <= size
    before, after = loras(path), loras(output)
    most = max(lora.rank for lora in before.values())
    steps = [
        (lora.up.shape[0] + lora.down.shape[1]) * nbytes(lora.up.dtype, (1,))
        for target, lora in after.items()
        if lora.rank < (most if uniform else before[target].rank)
    ]
    # What did not fit may have been as little as a longer header: 8 bytes, or 16 with its padding.
    more = sum(steps) if uniform else min(steps)
    assert steps
    assert file.stat().st_size + more + 16 > size


def test_larger_size_than_needed_keeps_every_byte(tmp_path: Path) -> None:
    resize(PLAIN, output=tmp_path / "made", size=10**9)
    assert (tmp_path / "made" / WEIGHTS).read_bytes() == (PLAIN / WEIGHTS).read_bytes()


def test_size_counts_what_a_rule_bounds(tmp_path: Path) -> None:
    report = resize(PLAIN, output=tmp_path / "made", rule=RankRule(max_rank=3), size=10**9)
    assert report.certificates.ranks == (3, 3)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (RankRule(rank=2), "rank"),
        (RankRule(energy=0.5), "energy"),
        (RankRule(error=0.5), "error"),
        (RankRule(parameters=9999), "parameters"),
    ],
)
def test_size_and_another_goal_are_refused(rule: RankRule, name: str) -> None:
    with pytest.raises(LoratoolsError, match=f"^size and {name} are both given; use one of them$"):
        budget(rule, open_adapter(PLAIN), 10**6)


def test_size_that_the_rest_alone_exceeds_is_refused() -> None:
    with pytest.raises(OutputError, match=r"plain: \d+ bytes without any factors, more than 99"):
        resize(PLAIN, output=None, size=99)


def test_size_below_a_rank_for_each_is_refused() -> None:
    with pytest.raises(LoratoolsError, match="a rank of 1 for 35 targets takes 5780 elements"):
        resize(PLAIN, output=None, size=20_000)


def test_result_that_cannot_be_made_smaller_is_refused() -> None:
    """As where other tensors than factors are larger than they were."""
    adapter = open_adapter(SMALL)

    def stubborn(rule: RankRule) -> "Made":
        return Made(adapter)

    size = (SMALL / WEIGHTS).stat().st_size - 4000
    with pytest.raises(OutputError, match=rf"combine-r4: {size} bytes are too few, by 4000 or mo"):
        fitted(stubborn, None, adapter, size)


class Made:
    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter


# Headers and configs


@pytest.mark.parametrize("path", [LOCON, SDXL], ids=lambda path: path.name)
def test_hashes_of_a_kohya_file_are_those_of_its_tensors(path: Path, tmp_path: Path) -> None:
    output = tmp_path / "made.safetensors"
    resize(path, output=output, rule=RankRule(rank=1))
    data = output.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:end])["__metadata__"]
    before = present(open_adapter(path).filed).metadata
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[end:]).hexdigest()
    assert metadata["sshs_model_hash"] != before["sshs_model_hash"]
    assert metadata["sshs_legacy_hash"] == "e3b0c442", "of nothing: the file is short"
    assert metadata.keys() == before.keys()
    assert load_file(output).keys() == load_file(path / f"{path.name}.safetensors").keys()


def test_config_is_sorted_and_keeps_what_is_not_understood(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(SMALL, adapter)
    fields = json.loads((adapter / CONFIG).read_text())
    odd = {"zebra": {"b": 1, "a": [1.5, None, True]}, "Ünïcode": "žluť", "revision": "abc"}
    (adapter / CONFIG).write_text(json.dumps(dict(reversed((fields | odd).items()))))
    rescale(adapter, output=tmp_path / "made", rescaling=Rescaling(strength=2))
    text = (tmp_path / "made" / CONFIG).read_text(encoding="utf-8")
    found = json.loads(text)
    assert text == json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert found["lora_alpha"] == 2 * fields["lora_alpha"]
    same = fields | odd | {"lora_alpha": found["lora_alpha"]}
    assert {name: found[name] for name in same} == same


def test_written_again_it_is_the_same_file(tmp_path: Path) -> None:
    for path, suffix in ((FIXTURES / "adapters/rslora-patterns", ""), (SDXL, ".safetensors")):
        made, again = tmp_path / f"made{suffix}", tmp_path / f"again{suffix}"
        rescale(path, output=made, rescaling=Rescaling(strength=0.3))
        rescale(made, output=again, rescaling=Rescaling())
        assert digests(again) == digests(made)


# Numbers


@pytest.fixture
def narrow(tmp_path: Path) -> Adapter:
    """An adapter in float16, with a number near the largest of that dtype."""
    up = torch.full((4, 2), 60_000.0).half()
    down = torch.ones(2, 3).half()
    scaling = Scaling(2.0, 2, "rank", "config")
    lora = LoRA(Held("up", up, "F16"), Held("down", down, "F16"), scaling, (4, 3))
    return replace(open_adapter(SMALL), updates={"q.weight": Update(lora, False)})


def test_number_too_large_for_its_dtype_is_an_error_and_leaves_nothing(
    narrow: Adapter, tmp_path: Path
) -> None:
    from loratools.reshaping.rescaled import rescaled

    folded = rescaled(narrow, Rescaling(strength=2, fold=True)).adapter
    with pytest.raises(NonFiniteError, match=r"q\.lora_B\.weight: has .* too large for F16"):
        write_adapter(folded, tmp_path / "made", inputs=())
    assert list(tmp_path.iterdir()) == []
    write_adapter(rescaled(narrow, Rescaling(strength=2)).adapter, tmp_path / "made", inputs=())


def test_truncated_factors_fit_into_a_narrow_dtype(narrow: Adapter, tmp_path: Path) -> None:
    """The update is as large as before, but both factors have their share of it."""
    from loratools.reshaping.resized import resized

    small = resized(narrow, RankRule(rank=1)).adapter
    write_adapter(small, tmp_path / "made", inputs=())
    up, down = (value.abs().max() for value in load_file(tmp_path / "made" / WEIGHTS).values())
    assert 0.5 < up / down < 2


# Names


def test_dry_run_is_a_report_without_a_file(tmp_path: Path) -> None:
    made = combine([SMALL, SMALL], output=None, rule=RankRule(rank=4))
    report = made.report
    assert report.written is None
    assert report.certificates.ranks == (4, 4)
    assert report.to_json()["output"] is None


@pytest.mark.parametrize(
    ("path", "name", "kind", "better"),
    [
        (SMALL, "made.safetensors", "folder", "made"),
        (LOCON, "made", "safetensors file", "made.safetensors"),
    ],
)
def test_name_says_whether_it_is_a_file_or_a_folder(
    path: Path, name: str, kind: str, better: str, tmp_path: Path
) -> None:
    says = f"^{tmp_path / name}: the output is a {kind}.*; name it {tmp_path / better}$"
    with pytest.raises(OutputError, match=says):
        resize(path, output=tmp_path / name, rule=RankRule(rank=1))
    assert list(tmp_path.iterdir()) == []
