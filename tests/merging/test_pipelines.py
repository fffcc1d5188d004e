"""A pipeline merged: each component in its own files, and nothing changed but what was meant."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.errors import FormatError, MatchError, UnsupportedError
from loratools.files.opening import open_base
from loratools.files.swapped import read_state, swap_folder
from loratools.merging.execute import WriteOptions
from loratools.merging.plan import MergeOptions
from loratools.merging.report import MergeReport
from tests.merged import eighths, pair, read_json, update, write_adapter
from tests.narrowing import present
from tests.pipelines import (
    ADAPTER,
    TEXT,
    UNET,
    VAE,
    WEIGHTS,
    change_json,
    contents,
    file_of,
    split,
    write_lora,
    write_pipeline,
)

INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_lora(tmp_path / ADAPTER)


def merge(base: Path, *adapters: Path, **options: Any) -> tuple[Path, MergeReport]:
    output = base.parent / "out"
    report = loratools.merge(base, adapters, output=output, **options)
    return output, report


def tensors_in(folder: Path, component: str) -> dict[str, Tensor]:
    """The tensors in all files of a component, by their names there."""
    files = sorted((folder / component).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def expected(component: str, *changes: tuple[str, int, int]) -> dict[str, Tensor]:
    """The weights of a component with the updates of `write_lora` for these modules."""
    found = dict(WEIGHTS[component])
    for module, rows, columns in changes:
        found[f"{module}.weight"] = found[f"{module}.weight"] + update(
            pair(module, rows, columns), 1.0
        )
    return found


def assert_merged(folder: Path) -> None:
    """Assert that the weights are those of a merge of the default adapter."""
    for component, changes in (
        ("unet", [(UNET, 8, 4)]),
        ("text_encoder", [(TEXT, 6, 4)]),
        ("vae", []),
    ):
        wanted = expected(component, *changes)
        found = tensors_in(folder, component)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_only_the_bytes_of_changed_tensors_change(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    out, report = merge(base, lora)
    assert_merged(out)
    before, after = contents(base), contents(out)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {file_of("unet"), file_of("text_encoder")}
    for component, name in (("unet", f"{UNET}.weight"), ("text_encoder", f"{TEXT}.weight")):
        one, other = before[file_of(component)], after[file_of(component)]
        differing = [at for at, byte in enumerate(one) if byte != other[at]]
        assert len(one) == len(other)
        assert max(differing) - min(differing) < WEIGHTS[component][name].nbytes
    assert set(report.files) == {file_of(name) for name in WEIGHTS}
    assert not report.left_out


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_each_component_has_its_own_index(tmp_path: Path, lora: Path, variant: str) -> None:
    base = write_pipeline(tmp_path / "base")
    index = f"unet/diffusion_pytorch_model.safetensors.index{'.fp16' if variant else ''}.json"
    shard = f"diffusion_pytorch_model{'.fp16' if variant else ''}-{{}}.safetensors"
    split(base, "unet", index=Path(index).name, shard=shard)
    out, _ = merge(base, lora)
    assert_merged(out)
    assert contents(base).keys() == contents(out).keys()
    found = read_json(out / index)
    assert found["weight_map"] == read_json(base / index)["weight_map"]
    assert found["metadata"]["total_size"] == sum(t.nbytes for t in WEIGHTS["unet"].values())


def test_weights_are_split_anew_component_by_component(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base", variants=("fp16",))
    out, _ = merge(base, lora, write=WriteOptions(max_shard_bytes=100))
    assert_merged(out)
    stem = "diffusion_pytorch_model.fp16"
    assert {name for name in contents(out) if name.startswith("unet/")} == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        f"unet/{stem}-00001-of-00002.safetensors",
        f"unet/{stem}-00002-of-00002.safetensors",
    }
    whole, _ = merge(
        out.rename(tmp_path / "split"), lora, write=WriteOptions(max_shard_bytes=10**6)
    )
    assert {n for n in contents(whole) if n.endswith((".safetensors", "index.fp16.json"))} == {
        file_of(name, "fp16") for name in WEIGHTS
    }


def test_an_earlier_name_of_an_index_is_not_given_to_new_files(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    earlier = "diffusion_pytorch_model.safetensors.fp16.index.json"
    split(base, "unet", index=earlier, shard="diffusion_pytorch_model-{}.fp16.safetensors")
    out, _ = merge(base, lora)
    assert (out / "unet" / earlier).exists()
    shutil.rmtree(out)
    out, _ = merge(base, lora, write=WriteOptions(max_shard_bytes=1))
    assert not (out / "unet" / earlier).exists()
    assert (out / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").exists()
    assert_merged(out)


def test_one_variant_is_merged_and_the_others_are_left_out(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base", variants=("", "fp16"))
    with pytest.raises(FormatError, match="choose with variant="):
        merge(base, lora)
    out, report = merge(base, lora, variant="fp16")
    assert_merged(out)
    assert set(report.files) == {file_of(name, "fp16") for name in WEIGHTS}
    assert set(report.left_out) == {file_of(name) for name in WEIGHTS}
    assert report.notes[0] == "files of the variant fp16: text_encoder, unet, vae"


def test_what_lies_beside_the_components_is_left_out_and_named(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    save_file({"whole": torch.ones(2)}, base / "v1-5-pruned.safetensors")
    write_lora(base / ADAPTER)
    (base / "unet/diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (base / "README.md").write_text("about the base")
    (base / "tokenizer").mkdir()
    (base / "tokenizer/vocab.json").write_text("{}")
    out, report = merge(base, lora)
    assert list(report.left_out) == [
        "README.md",
        ADAPTER,
        "unet/diffusion_pytorch_model.bin",
        "v1-5-pruned.safetensors",
    ]
    assert (out / "tokenizer/vocab.json").read_text() == "{}"


def test_weights_that_cannot_be_read_are_copied(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    pickled = base / "text_encoder/pytorch_model.bin"
    (base / file_of("text_encoder")).rename(pickled)
    out, report = merge(base, write_lora(tmp_path / "unet.safetensors", "unet"))
    assert (out / "text_encoder/pytorch_model.bin").read_bytes() == pickled.read_bytes()
    assert not report.left_out
    assert "text_encoder: not read" in report.notes[0]
    with pytest.raises(MatchError, match=r"\(not read: text_encoder \(no .*_model\.bin\)\): "):
        merge(base, lora)


def test_an_update_of_a_component_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base", "unet")
    lora = write_lora(tmp_path / ADAPTER)
    with pytest.raises(MatchError, match="text_encoder"):
        merge(base, lora)
    out, report = merge(base, lora, options=MergeOptions(allow_unmatched=True))
    assert len(report.plan.changed) == 1
    assert torch.equal(
        tensors_in(out, "unet")[f"{UNET}.weight"], expected("unet", (UNET, 8, 4))[f"{UNET}.weight"]
    )


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"only": ("unet.*",)}, ["unet"]),
        ({"skip": ("unet.*",)}, ["text_encoder"]),
        ({"only": ("*.q_proj.weight",)}, ["text_encoder"]),
    ],
)
def test_globs_choose_components(
    tmp_path: Path, lora: Path, options: dict[str, Any], changed: list[str]
) -> None:
    _, report = merge(write_pipeline(tmp_path / "base"), lora, options=MergeOptions(**options))
    assert [tensor.name.partition(".")[0] for tensor in report.plan.changed] == changed


def test_a_dtype_is_corrected_in_the_configs_that_name_one(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    change_json(base / "vae/config.json", dtype="float32")
    out, _ = merge(base, lora, options=MergeOptions(dtype="bfloat16"))
    for component in WEIGHTS:
        assert {t.dtype for t in tensors_in(out, component).values()} == {torch.bfloat16}
    assert read_json(out / "text_encoder/config.json") == {"torch_dtype": "bfloat16"}
    assert read_json(out / "vae/config.json")["dtype"] == "bfloat16"
    for file in ("unet/config.json", "model_index.json", "scheduler/scheduler_config.json"):
        assert (out / file).read_bytes() == (base / file).read_bytes()


def test_a_dtype_is_not_added_to_the_config_of_a_component_alone(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base") / "unet"
    lora = write_lora(tmp_path / ADAPTER, "unet")
    out, _ = merge(base, lora, options=MergeOptions(dtype="bfloat16"))
    assert read_json(out / "config.json") == {"_class_name": "Model"}


def test_a_component_alone_is_merged_under_its_plain_names(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    lora = write_lora(tmp_path / ADAPTER, "unet")
    whole, _ = merge(base, lora)
    loratools.merge(base / "unet", lora, output=tmp_path / "unet")
    inside = {n: data for n, data in contents(whole).items() if n.startswith("unet/")}
    assert {f"unet/{n}": data for n, data in contents(tmp_path / "unet").items()} == inside


def test_an_overlay_holds_the_changed_tensors_of_all_components(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    split(base, "unet")
    full, _ = merge(base, lora, options=MergeOptions(dtype="bfloat16"))
    changed, made = tmp_path / "changed", tmp_path / "made"
    options = MergeOptions(dtype="bfloat16")
    write = WriteOptions(only_changed=True)
    loratools.merge(base, lora, output=changed, options=options, write=write)
    loratools.merge(f"{base}+{changed}", [], output=made)
    assert contents(made) == contents(full)
    # Its configs are those of the model, which another dtype changes again.
    loratools.merge(
        f"{base}+{changed}", [], output=tmp_path / "wide", options=MergeOptions(dtype="float32")
    )
    config = read_json(tmp_path / "wide/text_encoder/config.json")
    assert config == {"torch_dtype": "float32"}
    # Weights of the same names in other files are another base.
    other = write_pipeline(tmp_path / "other")
    with pytest.raises(MatchError, match="was made for another base"):
        loratools.merge(f"{other}+{changed}", [], output=tmp_path / "no")


def test_an_output_can_be_replaced(tmp_path: Path, lora: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    merge(base, lora)
    out, _ = merge(base, lora, write=WriteOptions(overwrite=True))
    assert_merged(out)


def test_a_new_tensor_is_put_into_the_component_of_its_name(tmp_path: Path) -> None:
    """A bias that an adapter has trained where the base has none, or a whole new weight."""
    base = write_pipeline(tmp_path / "base")
    split(base, "text_encoder")
    new = eighths(6)
    tensors = {f"text_encoder.{TEXT}.bias": new, **pair(f"unet.{UNET}", 8, 4)}
    path = write_adapter(tmp_path / "adapter", tensors, bias="all")
    out, report = merge(base, path)
    assert torch.equal(tensors_in(out, "text_encoder")[f"{TEXT}.bias"], new)
    last = "model-00002-of-00002.safetensors"
    assert f"{TEXT}.bias" in load_file(out / "text_encoder" / last)
    weight_map = read_json(out / "text_encoder/model.safetensors.index.json")["weight_map"]
    assert weight_map[f"{TEXT}.bias"] == last
    assert set(report.files) == {n for n in contents(out) if n.endswith(".safetensors")}


def test_a_new_tensor_in_an_overlay_is_in_the_component_of_its_name(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    tensors = {f"vae.{VAE}.bias": eighths(5), **pair(f"unet.{UNET}", 8, 4)}
    adapter = write_adapter(tmp_path / "adapter", tensors, bias="all")
    full, _ = merge(base, adapter)
    changed, made = tmp_path / "changed", tmp_path / "made"
    loratools.merge(base, adapter, output=changed, write=WriteOptions(only_changed=True))
    loratools.merge(f"{base}+{changed}", [], output=made)
    assert contents(made) == contents(full)


def test_a_new_tensor_of_no_component_is_refused(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    tensors = {"elsewhere.bias": eighths(6), **pair(f"unet.{UNET}", 8, 4)}
    adapter = write_adapter(tmp_path / "adapter", tensors, bias="all")
    with pytest.raises(MatchError, match=r"elsewhere.bias would be new, and begins with no comp"):
        merge(base, adapter)


def test_a_swap_takes_a_component_and_a_half_swapped_one_is_noticed(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    lora = write_lora(tmp_path / ADAPTER, "unet")
    with pytest.raises(UnsupportedError, match="a pipeline, and a swap rewrites one model; name"):
        loratools.swap(base, lora)
    loratools.swap(base / "unet", lora)
    wanted = expected("unet", (UNET, 8, 4))
    assert all(torch.equal(t, wanted[n]) for n, t in tensors_in(base, "unet").items())
    folder = present(swap_folder(open_base(base / "unet")))
    state = present(read_state(folder))
    tensors = {n: replace(t, source=t.originals) for n, t in state.tensors.items()}
    (folder / "state.json").write_bytes(replace(state, tensors=tensors).encode())
    with pytest.raises(FormatError, match=r"base/unet: a swap has stopped in the middle"):
        open_base(base)


@pytest.mark.parametrize("chosen", ["transformer", "transformer_2"])
def test_a_glob_says_which_of_two_transformers_an_adapter_is_for(
    tmp_path: Path, chosen: str
) -> None:
    module = "blocks.0.ffn.0"
    folders = ("transformer", "transformer_2")
    base = write_pipeline(tmp_path / "base", "vae")
    for folder in folders:
        (base / folder).mkdir()
        tensors = {f"{module}.weight": eighths(8, 4), f"{module}.bias": eighths(8)}
        save_file(tensors, base / file_of(folder))
    change_json(base / "model_index.json", **{key: ["diffusers", "Model"] for key in folders})
    factors = pair(module, 8, 4)
    down, up = factors.values()
    keys = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(1.0)}
    adapter = tmp_path / "kohya.safetensors"
    save_file(
        {f"lora_unet_{module.replace('.', '_')}.{key}": t for key, t in keys.items()}, adapter
    )
    with pytest.raises(MatchError, match=r"several base tensors fit .* only= or skip= says which"):
        merge(base, adapter)
    (other,) = {*folders} - {chosen}
    for number, options in enumerate(
        (MergeOptions(only=(f"{chosen}.*",)), MergeOptions(skip=(f"{other}.*",)))
    ):
        out = tmp_path / str(number)
        loratools.merge(base, adapter, output=out, options=options)
        for folder in folders:
            expected = eighths(8, 4) + (update(factors) if folder == chosen else 0)
            assert torch.equal(load_file(out / file_of(folder))[f"{module}.weight"], expected)


def test_leaving_out_is_advised_only_if_something_is_left(tmp_path: Path) -> None:
    unet = tmp_path / "unet.safetensors"
    save_file({"time_embedding.linear_1.weight": eighths(8, 4)}, unet)
    text = pair("text_encoder.text_model.encoder.layers.0.mlp.fc1", 6, 4)
    both = text | pair("unet.time_embedding.linear_1", 8, 4)
    for tensors in (text, both):
        save_file(tensors, adapter := tmp_path / "adapter.safetensors")
        with pytest.raises(MatchError, match="which the base does not have") as refusal:
            merge(unet, adapter)
        advice = "allow_unmatched=True merges the others"
        assert (advice in str(refusal.value)) == (tensors is both)


def test_a_whole_tensor_is_never_added_to_a_model_that_has_its_rows_elsewhere(
    tmp_path: Path,
) -> None:
    """FLUX.1's original layout has `to_q` in `qkv`, and the halves of `norm_out.linear` swapped."""
    base = tmp_path / "flux.safetensors"
    weights = {
        "double_blocks.0.img_attn.qkv.weight": eighths(12, 4),
        "double_blocks.0.img_attn.proj.weight": eighths(4, 4),
        "final_layer.adaLN_modulation.1.weight": eighths(8, 4),
        "final_layer.linear.weight": eighths(6, 4),
    }
    vae = {f"vae.decoder.mid.attn_{i}.proj_out.weight": eighths(6, 4) for i in (1, 2)}
    save_file({f"model.diffusion_model.{n}": t for n, t in weights.items()} | vae, base)
    factors = pair("transformer_blocks.0.attn.to_out.0", 4, 4)
    for number, (name, rows, error, message) in enumerate(
        (
            ("transformer_blocks.0.attn.to_q", 4, UnsupportedError, "rows in another order or in"),
            ("norm_out.linear", 8, UnsupportedError, "rows in another order or in"),
            ("norm_out.other", 8, MatchError, "no such tensor in the base"),
            ("proj_out", 6, None, ""),
        )
    ):
        whole = torch.ones(rows, 4)
        tensors = factors | {f"{name}.weight": whole}
        adapter = write_adapter(tmp_path / str(number), tensors, modules_to_save=[name])
        output = tmp_path / f"{number}.safetensors"
        if error is None:
            loratools.merge(base, adapter, output=output)
            expected = load_file(output)["model.diffusion_model.final_layer.linear.weight"]
            assert torch.equal(expected, whole)
        else:
            with pytest.raises(error, match=message):
                loratools.merge(base, adapter, output=output)
