"""One adapter in three spellings, merged into a single file and into a folder of diffusers.

The judges are diffusers' converter, which makes the tensors of a folder of those of a single file,
and its `fuse_lora`. Factors are eighths of small integers and scalings powers of two: updates are
exact in every dtype, and their sum with a weight has one correct rounding. So all results are
compared bit for bit.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.oracles import WARNED, oracle

oracle("peft")
oracle("diffusers")

from diffusers.utils import logging  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

import loratools  # noqa: E402
from loratools import ExtractOptions, ExtractRun, RankRule  # noqa: E402
from loratools.errors import MatchError, UnsupportedError  # noqa: E402
from loratools.merging.plan import MergeOptions  # noqa: E402
from tests.oracle._families import FAMILIES, Family, Tensors  # noqa: E402
from tests.oracle._spelled import (  # noqa: E402
    Layer,
    comfyui,
    kohya,
    layers,
    save_diffusers,
    trained,
)
from tests.pipelines import contents  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

PART = "transformer_blocks_0_attn_to_k"
SINGLE = "single.safetensors"
NAMES = {
    "SD1": "Stable Diffusion 1 or 2",
    "SDXL": "SDXL",
    "SD3.5": "Stable Diffusion 3",
    "Flux.1": "FLUX.1",
    "Wan": "Wan",
    "HunyuanVideo": "HunyuanVideo",
}
SPELLINGS = ("kohya.safetensors", "comfyui.safetensors", "diffusers")


@final
@dataclass(frozen=True)
class Built:
    """A family's pipeline in a single file and in a folder, and an adapter in each spelling."""

    family: Family
    folder: Path
    pipeline: Any
    layers: list[Layer]
    fused: Tensors

    def merged(self, adapter: str, base: str, output: Path) -> Tensors:
        """The weights of a merged model, by component and name, as diffusers has them."""
        loratools.merge(self.folder / base, self.folder / adapter, output=output)
        return self.read(output)

    def read(self, path: Path) -> Tensors:
        """The weights in a single file or in a folder, by component and name."""
        if path.is_file():
            return self.family.mapped(self.pipeline, load_file(path))
        return {
            f"{stored.component}.{name}": tensor
            for stored in self.family.stored
            for file in (path / stored.component).glob("*.safetensors")
            for name, tensor in load_file(file).items()
        }


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Makes the files of a family once."""
    logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    found: dict[str, Built] = {}

    def built(name: str) -> Built:
        if name not in found:
            found[name] = _built(FAMILIES[name], tmp_path_factory.mktemp("family"))
        return found[name]

    return built


def _built(family: Family, folder: Path) -> Built:
    made = family.pipeline()
    made.save_pretrained(folder / "folder")
    save_file(family.single_file(made), folder / SINGLE)
    found = layers(family, made)
    save_file(kohya(found), folder / "kohya.safetensors")
    save_file(comfyui(found), folder / "comfyui.safetensors")
    other = trained(family.pipeline(), found)
    save_diffusers(other, folder / "diffusers")
    other.fuse_lora(components=list(dict.fromkeys(layer.stored.component for layer in found)))
    other.unload_lora_weights()
    return Built(family, folder, made, found, family.weights(other))


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    differing = [
        name
        for name, tensor in one.items()
        if tensor.dtype != other[name].dtype or not torch.equal(tensor, other[name])
    ]
    assert differing == []


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors that differ."""
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("name", FAMILIES)
def test_diffusers_reads_the_single_file_of_the_same_weights(
    name: str, build: Callable[[str], Built]
) -> None:
    built = build(name)
    weights = built.family.weights(built.pipeline)
    assert_equal(built.read(built.folder / SINGLE), weights)
    assert_equal(built.read(built.folder / "folder"), weights)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_does_the_same_in_every_spelling_and_to_every_layout(
    name: str, spelling: str, build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build(name)
    single = built.merged(spelling, SINGLE, tmp_path / "out.safetensors")
    assert_equal(single, built.fused)
    assert_equal(built.merged(spelling, "folder", tmp_path / "out"), built.fused)
    assert changed(built.family.weights(built.pipeline), built.fused) == {
        f"{layer.stored.component}.{part}.weight" for layer in built.layers for part in layer.rows
    }


def test_what_is_for_models_that_the_base_lacks_is_counted_by_model(
    build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build("SDXL")
    root = "model.diffusion_model."
    stored = load_file(built.folder / SINGLE)
    unet = {name.removeprefix(root): t for name, t in stored.items() if name.startswith(root)}
    save_file(unet, tmp_path / "unet.safetensors")
    first, second = (f"of the {number} text encoder" for number in ("first", "second"))
    adapter, output = built.folder / "kohya.safetensors", tmp_path / "out.safetensors"
    with pytest.raises(MatchError) as refusal:
        loratools.merge(tmp_path / "unet.safetensors", adapter, output=output)
    not_there = "which the base does not have (it is SDXL, original layout)"
    assert f"a module {first}, {not_there} (and 24 more without a match" in str(refusal.value)
    assert f": in all, 12 {first}, 13 {second})" in str(refusal.value)
    options = MergeOptions(allow_unmatched=True)
    report = loratools.merge(tmp_path / "unet.safetensors", adapter, output=output, options=options)
    assert [note for note in report.notes if "left out" in note] == [
        f"left out: 12 updates {first}, {not_there}",
        f"left out: 13 updates {second}, {not_there}",
    ]


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        ("SDXL", "SD1"),
        ("SD1", "SDXL"),
        ("Flux.1", "HunyuanVideo"),
        ("HunyuanVideo", "Flux.1"),
        ("Wan", "SD3.5"),
    ],
)
def test_an_adapter_for_another_model_is_refused_with_what_both_are(
    base: str, adapter: str, build: Callable[[str], Built], tmp_path: Path
) -> None:
    for spelling in SPELLINGS:
        path = build(adapter).folder / spelling
        with pytest.raises(MatchError) as refusal:
            loratools.merge(build(base).folder / SINGLE, path, output=tmp_path / "out")
        assert f"(it is {NAMES[base]}, original layout)" in str(refusal.value)
        assert f"by its names the adapter is for {NAMES[adapter]}" in str(refusal.value)


# With the fused weights of FLUX.1


def denoisers(built: Built) -> dict[str, Tensor]:
    """kohya's file for the layers of what makes the image."""
    stored = load_file(built.folder / "kohya.safetensors")
    return {key: tensor for key, tensor in stored.items() if key.startswith("lora_unet_")}


def with_magnitudes(tensors: Mapping[str, Tensor], axis: int) -> dict[str, Tensor]:
    """The DoRA with a magnitude for each output (axis 0) or input (axis 1) of each layer."""
    random = torch.Generator().manual_seed(3)
    found = dict(tensors)
    for key, up in tensors.items():
        if key.endswith(".lora_up.weight"):
            down = tensors[key.replace("lora_up", "lora_down")]
            shape = ((len(up), 1), (1, down.shape[1]))[axis]
            magnitudes = torch.rand(shape, generator=random) + 0.5
            found[key.replace("lora_up.weight", "dora_scale")] = magnitudes
    return found


def test_magnitudes_of_outputs_do_the_same_to_a_fused_weight_and_to_its_parts(
    build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build("Flux.1")
    save_file(with_magnitudes(denoisers(built), 0), tmp_path / "dora.safetensors")
    adapter = str(tmp_path / "dora.safetensors")
    single = built.merged(adapter, SINGLE, tmp_path / "out.safetensors")
    assert_equal(single, built.merged(adapter, "folder", tmp_path / "out"))
    before = built.family.weights(built.pipeline)
    assert {name.partition(".")[0] for name in changed(before, single)} == {"transformer"}


def test_magnitudes_of_inputs_are_for_a_fused_weight_alone(
    build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build("Flux.1")
    save_file(with_magnitudes(denoisers(built), 1), tmp_path / "dora.safetensors")
    adapter = str(tmp_path / "dora.safetensors")
    built.merged(adapter, SINGLE, tmp_path / "out.safetensors")
    reason = "img_attn_qkv.* is stored otherwise in the base, as .*to_q.*magnitude for each input"
    with pytest.raises(UnsupportedError, match=reason):
        built.merged(adapter, "folder", tmp_path / "out")


def test_a_fused_weight_and_a_part_of_it_in_one_adapter_are_refused(
    build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build("Flux.1")
    whole, part = (f"lora_unet_{name}" for name in ("double_blocks_0_img_attn_qkv", PART))
    found = {key: t for key, t in denoisers(built).items() if key.startswith(f"{whole}.")}
    of_part = {key.replace(whole, part): tensor.clone() for key, tensor in found.items()}
    up = f"{part}.lora_up.weight"
    of_part[up] = of_part[up][: len(of_part[up]) // 3].clone()
    save_file({**found, **of_part}, tmp_path / "both.safetensors")
    for base in (SINGLE, "folder"):
        with pytest.raises(MatchError, match=rf"{whole}\S* and {part}\S* both mean"):
            built.merged(str(tmp_path / "both.safetensors"), base, tmp_path / "out")


def test_adapters_in_two_spellings_are_added_up(
    build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build("Flux.1")
    for base in (SINGLE, "folder"):
        output = tmp_path / base
        adapters = [built.folder / spelling for spelling in ("kohya.safetensors", "diffusers")]
        loratools.merge(built.folder / base, adapters, output=output, weights=[0.25, 0.75])
        assert_equal(built.read(output), built.fused)


def test_an_update_that_is_not_exact_is_rounded_once_in_either_layout(
    build: Callable[[str], Built], tmp_path: Path
) -> None:
    """A bfloat16 has 8 bits, and the sum of at most 8 products and a weight is made in float32."""
    built = build("Flux.1")
    random = torch.Generator().manual_seed(4)
    found = [
        replace(
            layer,
            up=torch.randn(layer.up.shape, generator=random) / 4,
            down=torch.randn(layer.down.shape, generator=random) / 4,
        )
        for layer in built.layers
    ]
    save_file(kohya(found), tmp_path / "kohya.safetensors")
    adapter = str(tmp_path / "kohya.safetensors")
    single = built.merged(adapter, SINGLE, tmp_path / "out.safetensors")
    assert_equal(single, built.merged(adapter, "folder", tmp_path / "out"))
    before = built.family.weights(built.pipeline)
    for layer in found:
        for part, rows in layer.rows.items():
            name = f"{layer.stored.component}.{part}.weight"
            weight, update = before[name].double(), layer.update[rows]
            sizes = (weight.abs() + layer.absolute[rows]) * 10 * 2.0**-24
            error = (single[name].double() - (weight + update)).abs()
            assert (error <= (weight + update).abs() * 2.0**-8 + sizes).all()


#: Spellings, other formats, and the layout of the base that an adapter is converted for.
CONVERSIONS = (
    ("kohya.safetensors", "diffusers", "single.safetensors"),
    ("comfyui.safetensors", "diffusers", "folder"),
    ("diffusers", "kohya", "folder"),
    ("diffusers", "comfyui", "single.safetensors"),
)


@pytest.mark.parametrize(("spelling", "to", "base"), CONVERSIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_that_is_converted_for_a_base_does_the_same(
    name: str, spelling: str, to: str, base: str, build: Callable[[str], Built], tmp_path: Path
) -> None:
    if (name, to) == ("SD1", "comfyui"):
        pytest.skip("a text encoder this small is neither that of SD 1 nor that of SD 2")
    built = build(name)
    adapter = tmp_path / ("x" if to == "diffusers" else "x.safetensors")
    report = loratools.convert(
        built.folder / spelling, output=adapter, to=to, base=built.folder / base
    )
    assert report.comparison.worst is None
    assert_equal(built.merged(str(adapter), base, tmp_path / f"out-{base}"), built.fused)
    if to == "diffusers":
        made = built.family.pipeline()
        made.load_lora_weights(adapter)
        made.fuse_lora(components=list({layer.stored.component for layer in built.layers}))
        made.unload_lora_weights()
        assert_equal(built.family.weights(made), built.fused)


# Adapters of the difference between two single files


#: Families, and targets with all that is special: fused, exchanged and transposed weights.
SOME = (
    ("SDXL", ("text_encoder_2.*", "unet.mid_block.*")),
    ("SD3.5", ("transformer.*",)),
    ("Flux.1", ("*",)),
)


def extracted(tuned: Path, base: Path, output: Path, **options: Any) -> Any:
    return loratools.svd_extract(tuned, base, output=output, check=True, **options)


def with_levels(built: Built, folder: Path) -> Path:
    """A folder with the names of transformers 4, which single files and adapters have."""
    for stored in built.family.stored:
        for file in (folder / stored.component).glob("*.safetensors"):
            tensors = load_file(file)
            save_file({f"{stored.level}{name}": t for name, t in tensors.items()}, file)
    return folder


def distance(built: Built, adapter: Path, tuned: Path) -> float:
    """How far the single file with an adapter is from a tuned one, before it is rounded."""
    again, options = adapter.with_name(f"{adapter.name}.safetensors"), MergeOptions(dtype="float32")
    loratools.merge(built.folder / SINGLE, adapter, output=again, options=options)
    found = load_file(again)
    errors = [(found[key].double() - t).flatten() for key, t in load_file(tuned).items()]
    return float(torch.cat(errors).norm())


@pytest.mark.parametrize(("name", "only"), SOME)
def test_what_is_extracted_from_two_single_files_is_that_of_their_folders(
    name: str, only: tuple[str, ...], build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build(name)
    base, adapter = built.folder / SINGLE, built.folder / "diffusers"
    tuned, folder = tmp_path / SINGLE, tmp_path / "folder"
    loratools.merge(base, adapter, output=tuned)
    loratools.merge(built.folder / "folder", adapter, output=tmp_path / "tuned")
    shutil.copytree(built.folder / "folder", folder)
    with_levels(built, folder)
    with_levels(built, tmp_path / "tuned")
    options = ExtractOptions(only=only)
    of_folders = extracted(tmp_path / "tuned", folder, tmp_path / "one", options=options)
    others = [(tuned, base)]
    if name == "Flux.1":
        others += [(tmp_path / "tuned", base), (tuned, folder)]
    for number, models in enumerate(others):
        output = tmp_path / f"other-{number}"
        report = extracted(*models, output, options=options)
        assert report.check == of_folders.check
        assert report.check.agrees
        assert contents(output) == contents(tmp_path / "one")
        assert distance(built, output, tuned) == pytest.approx(report.check.distance, rel=1e-6)


@pytest.mark.parametrize(("name", "only"), SOME)
def test_rows_of_a_fused_weight_that_are_left_out_are_lost_once(
    name: str, only: tuple[str, ...], build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build(name)
    tuned, output = tmp_path / SINGLE, tmp_path / "out"
    loratools.merge(built.folder / SINGLE, built.folder / "diffusers", output=tuned)
    options = ExtractOptions(only=only, skip=("*.to_k.weight", "*.k_proj.weight"))
    report = extracted(tuned, built.folder / SINGLE, output, options=options, rule=RankRule(rank=1))
    assert report.check.agrees
    assert distance(built, output, tuned) == pytest.approx(report.check.distance, rel=1e-6)


def test_parts_of_one_stored_tensor_are_resumed_as_different_targets(
    build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build("Flux.1")
    base, tuned = built.folder / SINGLE, tmp_path / SINGLE
    loratools.merge(base, built.folder / "diffusers", output=tuned)
    extracted(tuned, base, tmp_path / "whole")

    def interrupt(done: int, total: int) -> None:
        if done >= 0.5 * total:
            raise KeyboardInterrupt

    for progress in (interrupt, None):
        run = ExtractRun(resume=True, jobs=1, progress=progress)
        try:
            report = extracted(tuned, base, tmp_path / "out", run=run)
        except KeyboardInterrupt:
            assert progress is not None
    assert 3 < report.reused < len(report.plan.factored)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("transformer.resblocks.0.attn.in_proj_bias", "encoder.layers.0.self_attn.k_proj.bias"),
        ("positional_embedding", "embeddings.position_embedding.weight"),
    ],
)
def test_what_diffusers_does_not_load_is_refused_by_its_name_in_a_folder(
    stored: str, named: str, build: Callable[[str], Built], tmp_path: Path
) -> None:
    built = build("SDXL")
    tensors = load_file(built.folder / SINGLE)
    tensors[f"conditioner.embedders.1.model.{stored}"] += 1
    save_file(tensors, tmp_path / SINGLE)
    with pytest.raises(UnsupportedError, match=f"text_encoder_2.text_model.{named} has changed"):
        extracted(tmp_path / SINGLE, built.folder / SINGLE, tmp_path / "out")
