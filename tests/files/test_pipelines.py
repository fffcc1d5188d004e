"""A folder with a `model_index.json` is one checkpoint, whose components have their own files."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratools.errors import FormatError, LoratoolsError
from loratools.files.opening import open_adapter, open_base
from tests.merged import read_json
from tests.pipelines import (
    UNET,
    WEIGHTS,
    change_json,
    file_of,
    split,
    write_json,
    write_lora,
    write_pipeline,
)

QUALIFIED = [f"{component}.{name}" for component, held in WEIGHTS.items() for name in held]


def refused(folder: Path, says: str, variant: str | None = None) -> None:
    with pytest.raises(LoratoolsError, match=re.escape(says)) as caught:
        open_base(folder, variant=variant)
    assert str(folder) in str(caught.value)


def test_names_begin_with_the_component_and_those_in_the_files_do_not(tmp_path: Path) -> None:
    base = open_base(write_pipeline(tmp_path / "base"))
    assert sorted(base.tensors) == sorted(QUALIFIED)
    assert [shard.name for shard in base.shards] == [file_of(name) for name in WEIGHTS]
    for component, held in WEIGHTS.items():
        for name, tensor in held.items():
            assert torch.equal(base.tensors[f"{component}.{name}"].read(), tensor)
    assert base.config is None
    assert base.is_folder
    assert not base.notes
    assert list(open_base(tmp_path / "base/model_index.json").tensors) == list(base.tensors)


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("", ""),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16-{}"),
        ("diffusion_pytorch_model.safetensors.fp16.index.json", "diffusion_pytorch_model-{}.fp16"),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", "diffusion_pytorch_model.fp16-{}"),
    ],
)
def test_a_component_is_read_by_its_index_under_every_name_of_one(
    tmp_path: Path, index: str, shard: str
) -> None:
    folder = write_pipeline(tmp_path / "base")
    split(folder, "unet", index=index, shard=f"{shard}.safetensors" if shard else "")
    base = open_base(folder)
    assert sorted(base.tensors) == sorted(QUALIFIED)
    indexes = [component.index_name for component in base.components]
    default = "diffusion_pytorch_model.safetensors.index.json"
    assert indexes == [None, f"unet/{index or default}", None]
    # A component alone, by its folder or its index, has plain names.
    for path in (folder / "unet", folder / "unet" / (index or default)):
        assert sorted(open_base(path).tensors) == sorted(WEIGHTS["unet"])


def test_a_model_of_transformers_in_parts_of_one_variant_is_read(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    index, shard = "model.safetensors.index.fp16.json", "model.fp16-{}.safetensors"
    split(folder, "text_encoder", index=index, shard=shard)
    base = open_base(folder / "text_encoder")
    assert sorted(base.tensors) == sorted(WEIGHTS["text_encoder"])
    assert base.components[0].index_name == index


def test_a_component_alone_has_the_names_in_its_files(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    for component, held in WEIGHTS.items():
        for path in (folder / component, folder / file_of(component)):
            assert list(open_base(path).tensors) == list(load_file(folder / file_of(component)))
        assert open_base(folder / component).config is not None
        assert held


def test_a_checkpoint_beside_the_components_is_no_part_of_the_pipeline(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    save_file({"whole": torch.ones(2)}, folder / "v1-5-pruned.safetensors")
    write_lora(folder / "pytorch_lora_weights.safetensors")
    assert sorted(open_base(folder).tensors) == sorted(QUALIFIED)
    assert list(open_base(folder / "v1-5-pruned.safetensors").tensors) == ["whole"]


# Variants


def test_of_several_variants_one_is_chosen(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base", variants=("", "fp16"))
    (folder / file_of("vae", "fp16")).unlink()
    refused(folder, "text_encoder: has its weights more than once; choose with variant=")
    half = open_base(folder, variant="fp16")
    files = [file_of("text_encoder", "fp16"), file_of("unet", "fp16"), file_of("vae")]
    assert [shard.name for shard in half.shards] == files
    assert half.notes == (
        "files of the variant fp16: text_encoder, unet",
        "files without a variant: vae",
    )
    plain = open_base(folder, variant="none")
    assert [shard.name for shard in plain.shards] == [file_of(name) for name in WEIGHTS]
    assert not plain.notes
    refused(folder, "no component has weights of the variant 'bf16'", variant="bf16")


def test_the_only_variant_is_taken_and_said(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base", variants=("fp16",))
    assert open_base(folder).notes == ("files of the variant fp16: text_encoder, unet, vae",)
    refused(folder, "no weights of the variant 'none'; use variant='fp16'", variant="none")


def test_a_component_alone_has_variants_too(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base", variants=("", "fp16"))
    unet = folder / "unet"
    refused(unet, "choose with variant=")
    assert open_base(unet, variant="fp16").shards[0].name == file_of("unet", "fp16")[5:]
    # A model of transformers is what its loader takes, unless another variant is asked for.
    text = folder / "text_encoder"
    assert open_base(text).shards[0].name == "model.safetensors"
    assert open_base(text, variant="fp16").shards[0].name == "model.fp16.safetensors"
    (text / "model.safetensors").unlink()
    assert open_base(text).shards[0].name == "model.fp16.safetensors"
    refused(text, "no weights of the variant 'bf16'", variant="bf16")
    refused(folder / file_of("vae"), "a file, and variant chooses", variant="fp16")


# What is not as it should be


@pytest.mark.parametrize("text", ["", "[]", "{", '{"unet": 1, "unet": 2}'])
def test_a_broken_model_index_is_named(tmp_path: Path, text: str) -> None:
    folder = write_pipeline(tmp_path / "base")
    (folder / "model_index.json").write_text(text)
    refused(folder, f"{folder}/model_index.json")


@pytest.mark.parametrize("name", ["../base", "a/b", "/etc", "a.b", "", "a b"])
def test_the_name_of_a_component_is_a_plain_name(tmp_path: Path, name: str) -> None:
    folder = write_pipeline(tmp_path / "base")
    change_json(folder / "model_index.json", **{name: ["diffusers", "Model"]})
    refused(folder, f"{name!r} is not the name of a component")


def test_a_component_without_a_folder_is_noted(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    shutil.rmtree(folder / "vae")
    base = open_base(folder)
    assert base.notes == ("vae: not read: model_index.json names it, and there is no such folder",)
    for component in ("text_encoder", "unet"):
        shutil.rmtree(folder / component)
    refused(folder, "a pipeline without safetensors files (text_encoder: model_index.json names it")


def test_a_component_of_pickles_is_noted_and_not_read(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    (folder / file_of("vae")).rename(folder / "vae/diffusion_pytorch_model.bin")
    write_json(folder / "vae/diffusion_pytorch_model.bin.index.json", {})
    base = open_base(folder)
    assert [shard.folder for shard in base.shards] == ["text_encoder", "unet"]
    pickled = "vae/diffusion_pytorch_model.bin"
    assert base.unread == (pickled, f"{pickled}.index.json")
    assert base.notes == (
        "vae: not read: no safetensors that diffusers loads, but diffusion_pytorch_model.bin",
    )


def test_a_model_without_weights_is_noted_and_a_scheduler_is_not(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    change_json(folder / "model_index.json", tokenizer=["transformers", "CLIPTokenizer"])
    write_json(folder / "tokenizer/config.json", {})
    assert not open_base(folder).notes
    (folder / file_of("vae")).unlink()
    assert open_base(folder).notes == ("vae: not read: its folder has no weights",)


def test_an_index_of_a_component_is_checked(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    split(folder, "unet")
    unet = folder / "unet"
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    second = unet / "diffusion_pytorch_model-00002-of-00002.safetensors"
    content = second.read_bytes()
    second.unlink()
    refused(folder, f"{index}: lists {second.name}, and no such file is in the folder")
    second.write_bytes(content)
    weight_map = read_json(index)["weight_map"]
    write_json(index, {"weight_map": {**weight_map, "gone": second.name}})
    refused(folder, f"{index}: says that {second.name} holds gone")
    write_json(index, {"weight_map": {f"{UNET}.weight": weight_map[f"{UNET}.weight"]}})
    refused(folder, f"{index}: does not list {second.name}, another part by its name")
    index.unlink()
    refused(folder, "parts of the weights, without the index")


def test_two_files_that_are_the_whole_component_are_one_too_many(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    whole = folder / file_of("unet")
    content = whole.read_bytes()
    split(folder, "unet")
    whole.write_bytes(content)
    for path in (folder, folder / "unet"):
        refused(path, "and readers differ in which they take")


def test_a_component_that_is_a_link_is_refused_and_its_files_may_be_links(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    shutil.move(folder / file_of("unet"), tmp_path / "elsewhere.safetensors")
    (folder / file_of("unet")).symlink_to(tmp_path / "elsewhere.safetensors")
    assert sorted(open_base(folder).tensors) == sorted(QUALIFIED)
    shutil.move(folder / "vae", tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    refused(folder, f"{folder}/vae: a link or a file, and no folder")


def test_a_tensor_of_one_name_may_be_in_two_components(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base", "unet", "vae")
    save_file({"same": torch.ones(1)}, folder / file_of("unet"))
    save_file({"same": torch.zeros(1)}, folder / file_of("vae"))
    assert list(open_base(folder).tensors) == ["unet.same", "vae.same"]


def test_a_folder_without_a_model_index_is_as_before(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    (folder / "model_index.json").unlink()
    with pytest.raises(FormatError, match="no safetensors file in this folder"):
        open_base(folder)


def test_a_pipeline_is_no_adapter(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "base")
    with pytest.raises(
        FormatError, match=r"no adapter file .* pipeline of diffusers, which is a base"
    ):
        open_adapter(folder)
