"""Adapters in memory are merged as those read from files are, and accounted for in the same way."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import loratools
from loratools import Adapter
from tests.merged import write_base

Make = Callable[[Path, Path], Adapter]

MADE: dict[str, Make] = {
    "rescale": lambda adapter, _: loratools.rescale(adapter, fold=True),
    "resize": lambda adapter, _: loratools.resize(adapter, rank=3),
    "combine": lambda adapter, _: loratools.combine([adapter] * 2, method="ties", rank=3),
    "combine with a base": lambda adapter, base: loratools.combine(adapter, base=base, rank=4),
    "convert": lambda adapter, base: loratools.convert(adapter, to="mlx", base=base),
    "several, in turn": lambda adapter, _: loratools.rescale(
        loratools.rescale(loratools.combine([adapter, adapter]), fold=True), fold=True, strength=0.1
    ),
}


def assert_merged_alike(base: Path, made: Adapter, saved: Path) -> None:
    """The same bytes, text and JSON, but for the names of the adapter and of the output."""
    by_file = said(base, saved, saved.with_name(f"{saved.name} by file"), str(saved))
    assert said(base, made, saved.with_name(f"{saved.name} direct"), made.where) == by_file


def said(base: Path, adapter: Path | Adapter, output: Path, name: str) -> tuple[str, bytes]:
    """All that a merge prints, and its bytes."""
    report = loratools.merge(base, adapter, output=output)
    fields = report.to_json()
    for note in fields["adapters"][0]["notes"]:
        note.pop("file")  # the config's, if it is in one
    text = f"{report}\n{report.accounting}\n{json.dumps(fields)}"
    text = text.replace(str(output), "OUTPUT").replace(name, "ADAPTER")
    return text, (output / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["combine-r4", "dora", "embedding-vocab"])
def test_a_merge_says_the_same_of_an_adapter_in_memory_and_of_the_saved_one(
    name: str, fixtures: Path, tmp_path: Path
) -> None:
    adapter, base = fixtures / "adapters" / name, fixtures / "stories260k"
    compared = 0
    for number, make in enumerate(MADE.values()):
        try:
            made = make(adapter, base)
        except loratools.UnsupportedError:
            continue  # a DoRA has one strength, and MLX no place for whole tensors
        saved = made.save(tmp_path / f"saved {number}")
        assert_merged_alike(base, made, saved)
        compared += 1
    assert compared >= 3


def test_so_it_does_of_an_extracted_one(fixtures: Path, tmp_path: Path) -> None:
    base = fixtures / "stories260k"
    loratools.merge(base, fixtures / "adapters" / "plain", output=tmp_path / "tuned")
    made = loratools.svd_extract(tmp_path / "tuned", base, rank=4, base_name="base")
    assert_merged_alike(base, made, made.save(tmp_path / "saved"))


def test_so_it_does_of_one_whose_file_has_tensors_of_alpha(tmp_path: Path) -> None:
    """In a file without a config, as of an image model: alphas count, and what has no effect."""
    module, key = (
        "text_model.encoder.layers.0.mlp.fc1",
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
    )
    base = write_base(tmp_path / "base", {f"{module}.weight": torch.randn(4, 6)})
    tensors = {
        f"{key}.lora_down.weight": torch.randn(2, 6).half(),
        f"{key}.lora_up.weight": torch.randn(4, 2).half(),
        f"{key}.alpha": torch.tensor(3.0),
        "bundle_emb.one.string_to_param": torch.randn(3),
    }
    opened = loratools.adapter_from_tensors(tensors, name="in memory")
    made = {
        "of tensors": opened,
        "rescaled": loratools.rescale(opened, strength=0.5),
        "combined": loratools.combine([opened, opened]),
    }
    for name, adapter in made.items():
        saved = adapter.save(tmp_path / f"{name}.safetensors")
        assert_merged_alike(base, adapter, saved)


def test_a_combination_counts_the_tensors_that_it_has(fixtures: Path) -> None:
    adapter = fixtures / "adapters" / "plain"
    both = loratools.combine([adapter, fixtures / "adapters" / "combine-r8"])
    report = loratools.merge(fixtures / "stories260k", both)
    assert report.accounting.startswith("70 of 70 adapter tensors applied to 35 weights")


def test_one_whose_format_is_only_read_is_merged_as_it_is(tmp_path: Path) -> None:
    """It cannot be saved so, but another format can store it."""
    base = write_base(tmp_path / "base", {"q.weight": torch.randn(6, 5)})
    tensors = {"q.lora_A": torch.randn(2, 5), "q.lora_B": torch.randn(6, 2)}
    made = loratools.rescale(loratools.adapter_from_tensors(tensors, alpha=8), strength=0.5)
    with pytest.raises(loratools.UnsupportedError, match="the format loralib is read and not"):
        made.save(tmp_path / "saved")
    loratools.convert(made, to="peft", output=tmp_path / "peft")
    _, direct = said(base, made, tmp_path / "direct", "tensors")
    _, by_file = said(base, tmp_path / "peft", tmp_path / "by file", "peft")
    assert direct == by_file


def test_what_was_computed_too_large_for_its_dtype_is_said_so_when_it_is_saved(
    tmp_path: Path,
) -> None:
    """Although an adapter in memory hides of what its tensors are computed."""
    factors = {"q.lora_A.weight": torch.full((2, 8), 300.0).half()}
    factors["q.lora_B.weight"] = factors["q.lora_A.weight"].T.contiguous()
    made = loratools.rescale(loratools.adapter_from_tensors(factors, alpha=2000), fold=True)
    with pytest.raises(loratools.NonFiniteError, match="numbers that are too large for F16"):
        made.save(tmp_path / "saved")
