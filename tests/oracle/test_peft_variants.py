"""PEFT's variants of LoRA, and the cases in which PEFT itself fails or did otherwise before."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.oracles import oracle
from tests.reference import rounded

oracle("peft")

from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig  # noqa: E402

import loratools  # noqa: E402
from tests.oracle._formula import Expected  # noqa: E402
from tests.oracle._zoo import Settings, make  # noqa: E402
from tests.oracle.test_peft_merge import check_formula, check_peft, merge  # noqa: E402

pytestmark = pytest.mark.oracle
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Linears(nn.Module):
    """Some variants wrap linear layers only. Large enough for one element in 10,000 to count."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.wide = nn.Linear(30 * size, 20 * size)
        self.tall = nn.Linear(20 * size, 30 * size)
        self.plain = nn.Linear(16 * size, 16 * size)


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "kasa": {"kasa_config": KasaConfig()},
    "monteclora": {"monteclora_config": MontecloraConfig(num_samples=2)},
    "velora": {"velora_config": VeloraConfig(num_groups=2)},
    "mica": {"init_lora_weights": "mica"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "bdlora": {
        "use_bdlora": BdLoraConfig(
            target_modules_bd_a=["wide"],
            target_modules_bd_b=["tal"],
            nblocks=2,
            match_strict=False,
        )
    },
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_merges_as_peft_does(
    variant: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    settings = Settings(zoo=Linears, size=10, dtype=dtype, more=VARIANTS[variant])
    made = make(settings, tmp_path)
    merged, expected = merge(made), Expected(made)
    check_formula(made, merged, expected)
    if variant == "kasa":
        return  # PEFT decomposes the weight in float32, and rounds it to its dtype before the sum
    check_peft(made, merged, expected)


def test_kasa_differs_from_peft_by_the_errors_of_a_decomposition_in_float32(tmp_path: Path) -> None:
    """A singular value decomposition has errors of a few 2^-24, relative to the largest value."""
    made = make(Settings(zoo=Linears, more=VARIANTS["kasa"]), tmp_path)
    merged, theirs = merge(made), made.peft_merge()
    for name, tensor in merged.items():
        largest = float(torch.linalg.matrix_norm(made.base[name].reshape(len(tensor), -1), 2))
        assert (tensor - theirs[name]).abs().max() <= 20 * 2.0**-24 * largest, name


class Awkward(nn.Module):
    """Layers that PEFT 0.21.2 trains, and fails to merge."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.points = nn.Conv3d(6 * size, 5 * size, 1)
        self.lines = nn.Conv3d(6 * size, 5 * size, (1, 1, 3))


@pytest.mark.parametrize("dora", [False, True])
def test_convolutions_that_peft_fails_to_merge_follow_the_formula(
    dora: bool, tmp_path: Path
) -> None:
    made = make(Settings(zoo=Awkward, dora=dora), tmp_path)
    check_formula(made, merge(made), Expected(made))


class Grouped(nn.Module):
    """PEFT's own merge refuses it too."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8 * size, 4 * size, 3, groups=2)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_grouped_convolution_is_refused(tmp_path: Path) -> None:
    made = make(Settings(zoo=Grouped), tmp_path)
    with pytest.raises(loratools.LoratoolsError, match="grouped: a grouped convolution"):
        merge(made)


class Unbiased(nn.Module):
    """PEFT's own merge refuses a `lora_bias` for it too."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * size, 2 * size, bias=False)


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
def test_lora_bias_without_a_bias_in_the_base_is_refused(tmp_path: Path) -> None:
    made = make(Settings(zoo=Unbiased, lora_bias=True), tmp_path)
    with pytest.raises(loratools.LoratoolsError, match=r"layer\.bias .* no such tensor"):
        merge(made)


def test_dora_row_without_a_norm_stays_zero_where_peft_divides_by_it(tmp_path: Path) -> None:
    made = make(Settings(zoo=Linears, dora=True), tmp_path)
    weights = load_file(tmp_path / "base.safetensors")
    weights["wide.weight"][4] = 0
    save_file(weights, tmp_path / "base.safetensors")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    adapter = load_file(path)
    adapter["base_model.model.wide.lora_B.weight"][4] = 0
    save_file(adapter, path)
    merged = merge(made)["wide.weight"]
    assert merged.isfinite().all()
    assert torch.count_nonzero(merged, dim=1).tolist() == [30] * 4 + [0] + [30] * 15


@pytest.mark.parametrize(("counted", "times"), [("once", 1), ("twice", 2), ("auto", 2)])
def test_out_proj_counts_as_often_as_asked_and_else_as_its_peft_did(
    counted: Any, times: int, tmp_path: Path
) -> None:
    class Attention(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4 * size, 2)

    made = make(Settings(zoo=Attention), tmp_path)
    base, adapter = tmp_path / "base.safetensors", tmp_path / "adapter"
    output = tmp_path / "merged.safetensors"
    loratools.merge(base, adapter, output=output, dialect_options={"out_proj": counted})
    stored = load_file(adapter / "adapter_model.safetensors")
    of = "base_model.model.attention.base_layer.out_proj.lora_"
    up, down = stored[f"{of}B.weight"].double(), stored[f"{of}A.weight"].double()
    scaling = made.scalings["attention"]
    expected = made.base["attention.out_proj.weight"].double() + times * scaling * up @ down
    merged = load_file(output)["attention.out_proj.weight"]
    assert torch.equal(merged, rounded(expected, torch.float32))


def test_a_state_dict_dumped_by_hand_merges_to_the_same_bytes(tmp_path: Path) -> None:
    """With the adapter's name in every key, and the base's own weights among them."""
    made = make(Settings(patterns=True, rslora=True, saved=True, bias="all"), tmp_path)
    merge(made)
    dumped = tmp_path / "dumped"
    dumped.mkdir()
    save_file(made.model.state_dict(), dumped / "adapter_model.safetensors")
    config = (tmp_path / "adapter" / "adapter_config.json").read_bytes()
    (dumped / "adapter_config.json").write_bytes(config)
    again = tmp_path / "again.safetensors"
    loratools.merge(tmp_path / "base.safetensors", dumped, output=again)
    assert again.read_bytes() == (tmp_path / "merged.safetensors").read_bytes()


def test_overlapping_patterns_are_refused_where_peft_lost_their_order(tmp_path: Path) -> None:
    """Trained with rank 2, by the first pattern; saved sorted, so that the other one counts."""
    patterns = {"rank_pattern": {"wide": 2, ".*": 3}}
    made = make(Settings(zoo=Linears, more=patterns), tmp_path)
    assert made.scalings["wide"] == 6 / 2
    notes = loratools.open_adapter(tmp_path / "adapter").notes
    (refusal,) = (note.message for note in notes if note.severity == "refusal")
    assert refusal.startswith("the config says rank 3, and the tensors have rank 2: wide; ")
    problems = [note.message for note in notes if note.severity == "problem"]
    assert problems == [
        "rank_pattern: .*, wide all match wide; the first counts, and PEFT does not keep their "
        "order when it saves",
    ]


def test_adapters_are_added_as_peft_adds_them(tmp_path: Path) -> None:
    one = make(Settings(zoo=Linears), tmp_path / "one")
    two = make(Settings(zoo=Linears, rslora=True), tmp_path / "two", seed=0)
    output = tmp_path / "both.safetensors"
    folders = [tmp_path / "one" / "adapter", tmp_path / "two" / "adapter"]
    loratools.merge(tmp_path / "one" / "base.safetensors", folders, output=output)
    first, second = Expected(one), Expected(two)
    one.model.load_adapter(str(folders[1]), "second")
    tuner: Any = one.model.base_model
    model = tuner.merge_and_unload(adapter_names=["default", "second"])
    for name, tensor in load_file(output).items():
        base = one.base[name].double()
        exact = first.weights[name] + second.weights[name] - base
        assert torch.equal(tensor, rounded(exact, torch.float32)), name
        terms = first.terms[name] + second.terms[name]
        assert ((tensor - model.state_dict()[name]).abs() <= 20 * 2.0**-24 * terms).all(), name


class TestMergedLinear:
    """`enable_lora` of PEFT before 0.3 and of microsoft/LoRA, whose own code is the reference."""

    @staticmethod
    def update(down: Tensor, up: Tensor, enabled: list[bool], scaling: float) -> Tensor:
        """`MergedLinear.merge_AB` and `zero_pad`, from microsoft/LoRA's loralib/layers.py."""
        convolved = nn.functional.conv1d(
            down.unsqueeze(0), up.reshape(len(up), -1, 1), groups=sum(enabled)
        ).squeeze(0)
        rows = len(up) // sum(enabled) * len(enabled)
        padded = torch.zeros(rows, down.shape[1], dtype=down.dtype)
        padded[torch.tensor(enabled).view(-1, 1).expand(-1, rows // len(enabled)).flatten()] = (
            convolved
        )
        return padded * scaling

    @pytest.mark.parametrize(
        "enabled",
        [[True, False, True], [False, True], [True, True], [False, False, True, False], [True]],
        ids=str,
    )
    @pytest.mark.parametrize("stored_transposed", [False, True])
    def test_follows_the_convolution_it_was_computed_with(
        self, enabled: list[bool], stored_transposed: bool, tmp_path: Path
    ) -> None:
        parts, height, width, rank = len(enabled), 5, 7, 3
        down = torch.randn(rank * sum(enabled), width)
        up = torch.randn(height * sum(enabled), rank, 1)
        weight = torch.randn(height * parts, width)
        stored = weight.T.contiguous() if stored_transposed else weight
        save_file({"layer.c_attn.weight": stored}, tmp_path / "base.safetensors")
        adapter = {
            f"base_model.model.layer.c_attn.lora_{k}.weight": v
            for k, v in {"A": down, "B": up}.items()
        }
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "enable_lora": enabled}
        merged = _merge_made(tmp_path, adapter, config)["layer.c_attn.weight"]
        update = self.update(down.double(), up.double(), enabled, 6 / rank)
        expected = rounded(weight.double() + update, torch.float32)
        assert torch.equal(merged.T if stored_transposed else merged, expected)

    def test_holds_for_a_published_adapter_of_bloom(self, fixtures: Path, tmp_path: Path) -> None:
        """Its config claims `fan_in_fan_out`, which the shape of BLOOM's weight contradicts."""
        folder = fixtures / "real" / "bloom560m-mergedlinear-bin"
        name = "h.3.self_attention.query_key_value"
        weight = torch.randn(3 * 1024, 1024) / 32
        save_file({f"{name}.weight": weight}, tmp_path / "base.safetensors")
        output = tmp_path / "merged.safetensors"
        report = loratools.merge(
            tmp_path / "base.safetensors",
            folder,
            output=output,
            allow_pickle=True,
            options=loratools.MergeOptions(allow_unmatched=True),
        )
        assert (len(report.plan.accounting.applied), len(report.plan.accounting.unmatched)) == (
            2,
            46,
        )
        stored = torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True)
        down, up = (
            stored[f"base_model.model.transformer.{name}.lora_{part}.weight"].double()
            for part in "AB"
        )
        update = self.update(down, up, [True, False, True], 16 / 8)
        merged = load_file(output)[f"{name}.weight"]
        assert torch.equal(merged, rounded(weight.double() + update, torch.float32))
        assert torch.equal(merged[1024:2048], weight[1024:2048])


def _merge_made(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    adapter = folder / "adapter"
    adapter.mkdir()
    save_file(dict(tensors), adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    loratools.merge(folder / "base.safetensors", adapter, output=folder / "merged.safetensors")
    return load_file(folder / "merged.safetensors")
