"""An adapter of two pipelines is in diffusers' format, which has a place for matrices alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools import ExtractOptions
from loratools.errors import FormatError, UnsupportedError
from loratools.lowrank.ranks import RankRule
from tests.narrowing import present
from tests.pipelines import ADAPTER, UNET, file_of, split, write_lora, write_pipeline

RANK = RankRule(rank=2)


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    """A tuned pipeline and its base."""
    base = write_pipeline(tmp_path / "base")
    tuned = tmp_path / "tuned"
    loratools.merge(base, write_lora(tmp_path / ADAPTER), output=tuned)
    return tuned, base


def extract(models: tuple[Path, Path], **options: Any) -> Any:
    output = models[0].with_name("extracted")
    options = {"rule": RANK, **options}
    return loratools.svd_extract(*models, output=output, **options)


def change(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({**load_file(path), **tensors}, path)


def test_it_is_what_diffusers_loads_and_merges_back(models: tuple[Path, Path]) -> None:
    report = extract(models, check=True)
    assert present(report.check).agrees
    output = Path(present(report.output))
    assert [path.name for path in output.iterdir()] == [ADAPTER]
    keys = load_file(output / ADAPTER)
    assert {key.partition(".")[0] for key in keys} == {"unet", "text_encoder"}
    again = output.with_name("again")
    loratools.merge(models[1], output, output=again)
    for component in ("unet", "text_encoder"):
        for name, tensor in load_file(models[0] / file_of(component)).items():
            found = load_file(again / file_of(component))[name]
            torch.testing.assert_close(found, tensor, rtol=1e-6, atol=1e-6)


def test_shards_need_not_be_those_of_the_base(models: tuple[Path, Path]) -> None:
    split(models[1], "unet")
    assert present(extract(models, check=True).check).agrees


@pytest.mark.parametrize(
    ("file", "name", "tensor"),
    [
        (file_of("unet"), f"{UNET}.bias", torch.ones(8)),
        (file_of("vae"), "decoder.conv.weight", torch.ones(5, 3)),
        (file_of("text_encoder"), "text_model.norm.weight", torch.ones(4)),
    ],
)
def test_what_diffusers_does_not_load_is_refused_before_anything_is_factored(
    models: tuple[Path, Path], file: str, name: str, tensor: Tensor
) -> None:
    """A bias, a matrix of a component without adapters, and a norm; or they are left out."""
    change(models[0] / file, {name: tensor})
    qualified = f"{file.partition('/')[0]}.{name}"
    with pytest.raises(UnsupportedError, match=f"{qualified} has changed and is nothing that diff"):
        extract(models)
    report = extract(models, options=ExtractOptions(keep_residual=False))
    assert list(report.plan.left_out) == [qualified]
    assert len(report.plan.factored) == 2


def test_nothing_is_stored_whole(models: tuple[Path, Path]) -> None:
    with pytest.raises(UnsupportedError, match="nothing can be stored with ExtractOptions"):
        extract(models, options=ExtractOptions(full=("unet.*",)))


def test_globs_choose_components(models: tuple[Path, Path]) -> None:
    report = extract(models, options=ExtractOptions(only=("unet.*",)))
    assert list(report.plan.factored) == [f"unet.{UNET}.weight"]


def test_a_component_alone_gets_an_adapter_of_peft(models: tuple[Path, Path]) -> None:
    tuned, base = models
    report = loratools.svd_extract(
        tuned / "unet", base / "unet", output=tuned.with_name("unet"), rule=RANK
    )
    assert list(report.plan.factored) == [f"{UNET}.weight"]
    assert (Path(present(report.output)) / "adapter_config.json").exists()


def test_the_variant_of_both_models_is_chosen(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base", variants=("", "fp16"))
    tuned = tmp_path / "tuned"
    loratools.merge(base, write_lora(tmp_path / ADAPTER), output=tuned, variant="fp16")
    with pytest.raises(FormatError, match="choose with variant="):
        extract((tuned, base))
    report = extract((tuned, base), variant="fp16")
    assert len(report.plan.factored) == 2
    assert f"{base}: files of the variant fp16: text_encoder, unet, vae" in report.notes


#: Weights of FLUX.1 and of Lumina2 by their original names.
QKV = "double_blocks.0.img_attn.qkv.weight"
ROOT = "model.diffusion_model."
DECODER = "first_stage_model.decoder.conv_in.weight"
FLUX = {
    f"{ROOT}{QKV}": (12, 4),
    f"{ROOT}double_blocks.0.img_attn.proj.weight": (4, 4),
    DECODER: (4, 4),
}
LUMINA = {"layers.0.attention.qkv.weight": (12, 4), "layers.0.attention.out.weight": (4, 4)}


def single_files(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], changed: str
) -> tuple[Path, Path]:
    """A tuned model and its base, of which one tensor differs."""
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "base.safetensors")
    tensors[changed] = tensors[changed] + torch.eye(*shapes[changed])
    save_file(tensors, folder / "tuned.safetensors")
    return folder / "tuned.safetensors", folder / "base.safetensors"


def test_rows_of_a_fused_weight_are_chosen_by_its_name_or_by_theirs(tmp_path: Path) -> None:
    models = single_files(tmp_path, FLUX, f"{ROOT}{QKV}")
    names = [f"transformer.transformer_blocks.0.attn.to_{part}.weight" for part in "qkv"]
    for glob, expected in ((f"*{QKV}", names[:1]), (names[0], names[:1])):
        report = loratools.svd_extract(*models, dry_run=True, options=ExtractOptions(only=(glob,)))
        assert list(report.plan.factored) == expected


def test_a_model_of_a_single_file_without_adapters_is_refused_by_its_own_name(
    tmp_path: Path,
) -> None:
    with pytest.raises(UnsupportedError, match=f"{DECODER} has changed and is nothing that diff"):
        extract(single_files(tmp_path, FLUX, DECODER))


def test_a_single_file_whose_rows_cannot_be_told_keeps_its_names(tmp_path: Path) -> None:
    name = next(iter(LUMINA))
    report = extract(single_files(tmp_path, LUMINA, name))
    assert list(report.plan.factored) == [name]
    assert (Path(present(report.output)) / "adapter_config.json").exists()
    assert any("Lumina" in note and "its own names" in note for note in report.notes)
