"""What `inspect` says of adapters, from headers, values and beside a base."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.errors import FormatError
from loratools.io.header import encode_header
from tests.formats.kohya.modules import magnitude, tucker
from tests.narrowing import present

FIXTURES = Path(__file__).parents[2] / "fixtures"


def write_header_only(folder: Path, rank: int) -> Path:
    """q and v of a model of GPT-3's shape (96 layers, width 12288); the data is a hole."""
    width, layers = 12288, 96
    tensors = []
    for layer in range(layers):
        for module in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors.append((f"{name}.lora_A.weight", "F32", (rank, width)))
            tensors.append((f"{name}.lora_B.weight", "F32", (width, rank)))
    folder.mkdir()
    header = encode_header(tensors, {"format": "pt"})
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * sum(math.prod(shape) for _, _, shape in tensors))
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("rank", "millions"), [(1, 4.7), (8, 37.7)])
def test_the_arithmetic_of_the_lora_paper(tmp_path: Path, rank: int, millions: float) -> None:
    """Hu et al. 2021, section 4.2 and table 4: 2 modules x 96 layers x 2 factors x 12288 x r."""
    found = loratools.inspect(write_header_only(tmp_path / "gpt3", rank))
    assert found.parameters == 2 * 96 * 2 * 12288 * rank
    assert round(found.parameters / 1e6, 1) == millions
    assert [(group.count, group.rank) for group in found.groups] == [(96, rank), (96, rank)]


def test_targets_are_grouped_by_name_rank_and_scaling() -> None:
    found = loratools.inspect(FIXTURES / "adapters/rslora-patterns")
    assert sum(group.count for group in found.groups) == 35
    special = [g for g in found.groups if g.rank == 2]
    assert [(g.pattern, g.count, g.alpha, g.alpha_from) for g in special] == [
        ("model.layers.*.self_attn.q_proj.weight", 1, 6, "alpha_pattern")
    ]
    assert special[0].scaling == pytest.approx(6 / math.sqrt(2), rel=1e-15)


@pytest.mark.parametrize(
    "name",
    [
        "adapters/plain",
        "adapters/dora",
        "adapters/gpt2-conv1d",
        "adapters/combine-r16",
        "kohya/sd15-locon",
        "kohya/sdxl-dynamic",
    ],
)
def test_spectra_have_the_norms_of_the_dense_updates(name: str) -> None:
    folder = FIXTURES / name
    expected = json.loads((folder / "expected.json").read_text())["delta_norms"]
    found = loratools.inspect(folder, spectrum=True)
    norms = {
        row.target.removesuffix(".weight"): present(row.spectrum).frobenius
        for row in present(found.spectra)
    }
    # PEFT multiplied in float32 what is compared here in float64.
    assert norms == pytest.approx(expected, rel=1e-6)


def test_flattened_names_are_grouped_by_the_numbers_in_them() -> None:
    found = loratools.inspect(FIXTURES / "kohya/sd15-locon")
    groups = {group.pattern: (group.count, group.shape, group.rank) for group in found.groups}
    block = "lora_unet_down_blocks_*_attentions_*"
    assert groups[f"{block}_proj_in.weight"] == (2, (32, 32, 1, 1), 4)
    assert groups[f"{block}_transformer_blocks_*_attn1_to_out_*.weight"] == (2, (32, 32), 4)
    assert groups["lora_te_text_model_encoder_layers_*_mlp_fc1.weight"] == (2, (48, 24), 4)
    assert groups["lora_unet_down_blocks_*_resnets_*_conv1.weight"] == (2, (32, 32, 3, 3), 2)
    assert len(groups) == 14


def test_beside_its_base_an_adapter_has_relative_norms_and_coverage() -> None:
    base = FIXTURES / "stories260k"
    found = loratools.inspect(FIXTURES / "adapters/combine-r4", base=base, spectrum=True)
    weights = load_file(base / "model.safetensors")
    for row in present(found.spectra):
        norm = weights[row.target].double().norm().item()
        assert row.relative == pytest.approx(present(row.spectrum).frobenius / norm, rel=1e-12)
    coverage = present(found.coverage)
    assert coverage.touched == 10
    assert coverage.untouched["model.layers.*.mlp.up_proj.weight"] == 5
    assert coverage.touched + sum(coverage.untouched.values()) == 37


def test_an_adapter_of_another_base_would_not_merge() -> None:
    found = loratools.inspect(FIXTURES / "adapters/plain", base=FIXTURES / "tiny-gpt2")
    coverage = present(found.coverage)
    assert coverage.refusal is not None
    assert "no such tensor in the base" in coverage.refusal
    assert not found.is_sound


def copy_of(name: str, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A made adapter with its tensors changed."""
    folder.mkdir()
    source = FIXTURES / "adapters" / name
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    tensors = load_file(source / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def test_zero_updates_are_counted_and_an_untrained_adapter_is_a_problem(tmp_path: Path) -> None:
    def one_zero(tensors: dict[str, torch.Tensor]) -> None:
        next(t for k, t in tensors.items() if "lora_B" in k).zero_()

    def all_zero(tensors: dict[str, torch.Tensor]) -> None:
        for key, tensor in tensors.items():
            if "lora_B" in key:
                tensor.zero_()

    one = loratools.inspect(copy_of("plain", tmp_path / "one", one_zero), spectrum=True)
    every = loratools.inspect(copy_of("plain", tmp_path / "all", all_zero), spectrum=True)
    assert [n.severity for n in one.notes] == ["info"]
    assert one.is_sound
    assert [n.severity for n in every.notes] == ["problem"]
    assert not every.is_sound


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_found(tmp_path: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values())).view(-1)[-1] = value

    found = loratools.inspect(copy_of("plain", tmp_path / "bad", spoil), spectrum=True)
    assert sum(row.spectrum is None for row in present(found.spectra)) == 1
    assert not found.is_sound


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gpt2-lora-bias", "transformer.h.0.attn.c_attn.lora_B.bias"),
        ("gpt2-bias-all", "transformer.ln_f.bias"),
        ("trainable-tokens", "model.embed_tokens.token_adapter.trainable_tokens_delta"),
        ("dora", "model.layers.2.self_attn.q_proj.lora_magnitude_vector"),
    ],
)
def test_no_tensor_escapes_the_search_for_values_that_are_not_finite(
    tmp_path: Path, name: str, key: str
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"base_model.model.{key}"].view(-1)[0] = math.nan

    found = loratools.inspect(copy_of(name, tmp_path / "bad", spoil), spectrum=True)
    assert found.nonfinite == (f"base_model.model.{key}",)
    assert not found.is_sound


def test_half_a_pair_is_an_error_that_names_it(tmp_path: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["base_model.model.model.layers.3.mlp.up_proj.lora_B.weight"]

    with pytest.raises(FormatError, match=r"layers\.3\.mlp\.up_proj has lora_A and no lora_B"):
        loratools.inspect(copy_of("plain", tmp_path / "half", halve))


def test_the_json_object_is_json_with_the_documented_fields() -> None:
    found = loratools.inspect(
        FIXTURES / "adapters/embedding-vocab", base=FIXTURES / "stories260k", spectrum=True
    )
    fields = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(fields) == {
        "path", "format", "kinds", "provenance", "settings", "metadata", "parameters",
        "replaced_parameters", "bytes", "models", "dtypes", "targets", "replaced", "rows", "inert",
        "weights_beside", "tokenizer_files", "modules", "blocks", "changing_nothing", "base",
        "notes", "sound",
    }  # fmt: skip
    assert fields["tokenizer_files"] == ["tokenizer.json", "tokenizer_config.json"]
    assert {row["target"] for row in fields["replaced"]} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    assert len(fields["inert"]) + 4 == 6


def test_spectra_of_an_adapter_stored_in_half_precision(tmp_path: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        for key, tensor in tensors.items():
            tensors[key] = tensor.to(torch.bfloat16)

    found = loratools.inspect(copy_of("plain", tmp_path / "bf16", halve), spectrum=True)
    assert found.dtypes == ("bfloat16",)
    assert all(present(row.spectrum).frobenius > 0 for row in present(found.spectra))


def test_scaling_is_shown_of_every_kind_that_has_a_rank(tmp_path: Path) -> None:
    """A DoRA of a LoCon with a core holds no LoRA, and has a rank and an alpha all the same."""
    tensors = tucker(ranks=(2, 4), alpha=1) | magnitude(1, 3, 1, 1)
    save_file(tensors, tmp_path / "lora.safetensors")
    (group,) = loratools.inspect(tmp_path / "lora.safetensors").groups
    assert (group.kind, group.rank, group.alpha, group.scaling) == ("DoRA", 4, 1, 0.25)
    assert group.parameters == sum(t.numel() for t in tensors.values()) - 1
