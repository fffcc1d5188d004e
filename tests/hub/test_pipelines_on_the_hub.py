"""A repository of diffusers as a base: only the components and the variant that are meant come."""

from pathlib import Path

import pytest

import loratools
from loratools import PushOptions
from loratools.errors import FormatError, UnsupportedError
from loratools.files.opening import open_base
from loratools.lowrank.ranks import RankRule
from tests.hub.server import Hub
from tests.pipelines import ADAPTER, WEIGHTS, contents, file_of, split, write_lora, write_pipeline

PIPELINE = "hf://ann/pipeline"
OTHERS = {
    "v1-5-pruned.safetensors": b"the same model in one file",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/model.onnx": b"onnx",
    "tokenizer/vocab.json": b"{}",
}


@pytest.fixture
def base(hub: Hub, tmp_path: Path) -> Path:
    """A pipeline with two variants, and the same as a repository with other files beside it."""
    folder = write_pipeline(tmp_path / "base", variants=("", "fp16"))
    split(folder, "unet")
    (folder / file_of("vae", "fp16")).unlink()
    hub.create_repo("ann/pipeline", contents(folder) | OTHERS)
    return folder


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_lora(tmp_path / ADAPTER)


def fetched(hub: Hub) -> set[str]:
    """The paths of the files that were fetched, at least in part."""
    return {request.path.split("/", 5)[5] for request in hub.log.of(path="/resolve/")}


@pytest.mark.parametrize("variant", ["fp16", "none"])
def test_a_merge_is_that_of_the_files_and_fetches_one_variant(
    hub: Hub, base: Path, lora: Path, tmp_path: Path, variant: str
) -> None:
    loratools.merge(PIPELINE, lora, output=tmp_path / "there", variant=variant)
    (base / "tokenizer").mkdir()
    (base / "tokenizer/vocab.json").write_text("{}")
    loratools.merge(base, lora, output=tmp_path / "here", variant=variant)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    weights = {n for n in fetched(hub) if n.endswith((".safetensors", ".bin", ".onnx"))}
    if variant == "fp16":
        wanted = {file_of("text_encoder", "fp16"), file_of("unet", "fp16"), file_of("vae")}
    else:
        shard = "unet/diffusion_pytorch_model-0000{}-of-00002.safetensors"
        wanted = {file_of("text_encoder"), file_of("vae"), shard.format(1), shard.format(2)}
    assert weights == wanted


def test_several_variants_are_refused_before_any_weight_is_fetched(
    hub: Hub, base: Path, lora: Path
) -> None:
    with pytest.raises(FormatError, match="choose with variant='fp16' or"):
        loratools.merge(PIPELINE, lora, output=None)
    assert fetched(hub) == {"model_index.json"}


def test_a_base_to_extract_from_comes_without_companions(
    hub: Hub, base: Path, lora: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    loratools.merge(base, lora, output=tuned, variant="fp16")
    hub.log.clear()
    rule = RankRule(rank=2)
    loratools.svd_extract(tuned, PIPELINE, output=tmp_path / "x", rule=rule, variant="fp16")
    configs = {f"{component}/config.json" for component in WEIGHTS}
    assert {n for n in fetched(hub) if n.endswith(".json")} == {"model_index.json", *configs}


def test_an_inspection_fetches_no_weights(hub: Hub, base: Path, lora: Path) -> None:
    found = loratools.inspect(lora, base=PIPELINE, variant="none").coverage
    assert found is not None
    assert (found.touched, found.matrices, found.refusal) == (2, 3, None)
    requests = [r for r in hub.log.of(path="/resolve/") if r.path.endswith(".safetensors")]
    assert requests
    assert not any("fp16" in request.path for request in requests)


def test_a_component_and_a_file_at_the_root_are_named_themselves(hub: Hub, base: Path) -> None:
    one = open_base(f"{PIPELINE}/vae")
    assert list(one.tensors) == list(WEIGHTS["vae"])
    assert fetched(hub) == {file_of("vae"), "vae/config.json"}
    hub.log.clear()
    with pytest.raises(FormatError):  # it is none
        open_base(f"{PIPELINE}/v1-5-pruned.safetensors")
    assert fetched(hub) == {"v1-5-pruned.safetensors"}


def test_a_pull_has_all_components_and_one_variant(hub: Hub, base: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="choose with variant='fp16' or"):
        loratools.pull(PIPELINE)
    output = tmp_path / "pulled"
    pulled = loratools.pull(PIPELINE, output=output, variant="fp16")
    assert set(pulled.files) == set(contents(output))
    assert open_base(output).notes == open_base(base, variant="fp16").notes
    assert {"model_index.json", "tokenizer/vocab.json", "unet/config.json"} <= set(pulled.files)
    assert not set(OTHERS) - {"tokenizer/vocab.json"} & set(pulled.files)


def test_a_merged_pipeline_is_pushed_as_it_is(
    hub: Hub, base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    out = tmp_path / "out"
    loratools.merge(base, lora, output=out, variant="none")
    report = loratools.push(out, "ann/merged", PushOptions(create=True))
    assert set(report.files) == {*contents(out), "README.md"}
    loratools.pull("ann/merged", output=tmp_path / "again")
    again = contents(tmp_path / "again")
    assert "library_name: diffusers" in again.pop("README.md").decode()
    assert again == contents(out)


def test_of_several_variants_one_is_pushed(
    hub: Hub, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    with pytest.raises(FormatError, match="choose with variant='fp16' or"):
        loratools.push(base, "ann/one", PushOptions(create=True, dry_run=True))
    options = PushOptions(create=True, dry_run=True, variant="none")
    with pytest.raises(UnsupportedError, match=r"none of its own .*fp16"):
        loratools.push(base, "ann/one", options)
    (base / file_of("unet", "fp16")).unlink()
    (base / file_of("text_encoder", "fp16")).unlink()
    assert set(loratools.push(base, "ann/one", options).files) == {*contents(base), "README.md"}


def test_a_component_of_pickles_is_merged_around_and_not_pulled(
    hub: Hub, lora: Path, tmp_path: Path
) -> None:
    folder = write_pipeline(tmp_path / "base")
    (folder / file_of("vae")).rename(folder / "vae/diffusion_pytorch_model.bin")
    hub.create_repo("ann/pickled", contents(folder))
    loratools.merge("hf://ann/pickled", lora, output=tmp_path / "there")
    loratools.merge(folder, lora, output=tmp_path / "here")
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    with pytest.raises(UnsupportedError, match=r"vae/.*\.bin: a pickle, .* none is fetched"):
        loratools.pull("ann/pickled")
