"""A checkpoint of an image model in one file: its metadata stays, and its hashes become true."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import loratools
from loratools.errors import LoratoolsError
from loratools.lowrank.ranks import RankRule
from loratools.merging.execute import WriteOptions
from loratools.merging.plan import MergeOptions
from tests.merged import eighths, pair, update, write_adapter
from tests.narrowing import present
from tests.pipelines import contents, file_of, write_lora, write_pipeline

LAYER = "model.diffusion_model.input_blocks.1.1.to_q"
SPEC = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-xl-v1-base",
    "modelspec.title": "A model",
    "modelspec.merged_from": "one, another",
    "ss_base_model_version": "sdxl",
    "format": "pt",
}
STALE = {
    "modelspec.hash_sha256": "0xstale",
    "sshs_model_hash": "stale",
    "sshs_legacy_hash": "stale",
}
WEIGHTS: Mapping[str, Tensor] = {
    f"{LAYER}.weight": eighths(8, 4),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(5)[None],
    "first_stage_model.quant_conv.weight": eighths(3, 3, 1, 1),
    "model_ema.decay": torch.tensor(0.9999),
    "model_ema.num_updates": torch.tensor(3),
    "model_ema.diffusion_modelinput_blocks11to_qweight": eighths(8, 4),
}


def write_file(path: Path, **metadata: str) -> Path:
    save_file(dict(WEIGHTS), path, SPEC | metadata)
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", pair(LAYER, 8, 4))


def header_and_data(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:begin]), content[begin:]


def metadata_of(path: Path) -> dict[str, str]:
    found: dict[str, str] = header_and_data(path)[0].get("__metadata__", {})
    return found


def merge(base: Path, adapter: Path, **options: Any) -> Path:
    output = base.with_name("out.safetensors")
    loratools.merge(base, adapter, output=output, **options)
    return output


def test_metadata_is_kept_and_a_hash_is_that_of_the_new_data(tmp_path: Path, adapter: Path) -> None:
    """As the example published with the ModelSpec computes it: of all bytes after the header."""
    out = merge(write_file(tmp_path / "base.safetensors", **STALE), adapter)
    digest = hashlib.sha256(header_and_data(out)[1]).hexdigest()
    assert metadata_of(out) == SPEC | {
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
        "sshs_legacy_hash": hashlib.sha256(b"").hexdigest()[:8],  # the file is short
    }
    assert torch.equal(
        load_file(out)[f"{LAYER}.weight"],
        WEIGHTS[f"{LAYER}.weight"] + update(pair(LAYER, 8, 4)),
    )


@pytest.mark.parametrize("name", STALE)
def test_only_hashes_that_are_there_are_made(tmp_path: Path, adapter: Path, name: str) -> None:
    out = merge(write_file(tmp_path / "base.safetensors", **{name: STALE[name]}), adapter)
    assert metadata_of(out).keys() == SPEC.keys() | {name}
    assert metadata_of(out)[name] != STALE[name]


def test_a_file_without_hashes_is_not_read_again(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratools.merging.execute.sealed_header", None)
    out = merge(write_file(tmp_path / "base.safetensors"), adapter)
    assert metadata_of(out) == SPEC


def test_a_stale_hash_may_have_any_length(tmp_path: Path, adapter: Path) -> None:
    """It moves the data in the base, and so the spaces that the header of the output ends in."""
    made = []
    for stale in ("", "0x" + "1" * 64, "x" * 5000):
        base = write_file(tmp_path / "base.safetensors", **{"modelspec.hash_sha256": stale})
        out = merge(base, adapter, write=WriteOptions(overwrite=True))
        made.append((metadata_of(out), header_and_data(out)[1]))
    assert made[0] == made[1] == made[2]


def test_tensors_that_are_not_meant_keep_their_bytes(tmp_path: Path, adapter: Path) -> None:
    base = write_file(tmp_path / "base.safetensors", **STALE)
    out = load_file(merge(base, adapter))
    assert list(out) == list(load_file(base))
    for name, tensor in WEIGHTS.items():
        if name != f"{LAYER}.weight":
            assert torch.equal(out[name], tensor)
            assert out[name].dtype == tensor.dtype


def test_averaged_weights_are_said_to_stay(tmp_path: Path, adapter: Path) -> None:
    base = write_file(tmp_path / "base.safetensors")
    report = loratools.merge(base, adapter, output=None)
    assert report.notes[0] == "model_ema.*: 3 tensors of averaged weights stay as they are"
    save_file({f"{LAYER}.weight": eighths(8, 4)}, tmp_path / "pruned.safetensors")
    assert not loratools.merge(tmp_path / "pruned.safetensors", adapter, output=None).notes


def test_an_overlay_has_no_hash_of_its_own_and_gives_the_model_a_true_one(
    tmp_path: Path, adapter: Path
) -> None:
    base = write_file(tmp_path / "base.safetensors", **STALE)
    full = merge(base, adapter)
    changed, made = tmp_path / "changed", tmp_path / "made.safetensors"
    loratools.merge(base, adapter, output=changed, write=WriteOptions(only_changed=True))
    names = metadata_of(changed / "overlay.safetensors").keys()
    assert names == SPEC.keys() | {"loratools_overlay"}
    loratools.merge(f"{base}+{changed}", [], output=made)
    assert made.read_bytes() == full.read_bytes()


def test_each_file_of_a_pipeline_has_its_own_metadata(tmp_path: Path) -> None:
    base = write_pipeline(tmp_path / "base")
    for component, metadata in (("unet", {**SPEC, **STALE}), ("vae", {"vae": "mine"})):
        path = base / file_of(component)
        save_file(load_file(path), path, metadata)
    out = tmp_path / "out"
    loratools.merge(base, write_lora(tmp_path / "lora.safetensors"), output=out)
    digest = hashlib.sha256(header_and_data(out / file_of("unet"))[1]).hexdigest()
    assert metadata_of(out / file_of("unet"))["modelspec.hash_sha256"] == f"0x{digest}"
    assert metadata_of(out / file_of("vae")) == {"vae": "mine"}
    assert metadata_of(out / file_of("text_encoder")) == {"format": "pt"}
    assert contents(out)[file_of("vae")] == contents(base)[file_of("vae")]


def test_a_dtype_changes_the_hash_too(tmp_path: Path, adapter: Path) -> None:
    base = write_file(tmp_path / "base.safetensors", **STALE)
    out = merge(base, adapter, options=MergeOptions(dtype="float16"))
    digest = hashlib.sha256(header_and_data(out)[1]).hexdigest()
    assert metadata_of(out)["sshs_model_hash"] == digest


def test_averaged_weights_are_not_extracted(tmp_path: Path, adapter: Path) -> None:
    """Whether both files have them, or only one."""
    base = write_file(tmp_path / "base.safetensors")
    tuned = merge(base, adapter)
    changed = load_file(tuned)
    changed["model_ema.diffusion_modelinput_blocks11to_qweight"] += 1
    save_file(changed, tuned)
    pruned = tmp_path / "pruned.safetensors"
    save_file({n: t for n, t in WEIGHTS.items() if not n.startswith("model_ema.")}, pruned)
    for number, before in enumerate((base, pruned)):
        out = tmp_path / str(number)
        report = loratools.svd_extract(tuned, before, output=out, rule=RankRule(rank=2))
        updates = list(loratools.open_adapter(out).updates)
        assert updates == ["unet.down_blocks.0.attentions.0.to_q.weight"]
        note = "model_ema.*: 3 tensors of averaged weights are not compared"
        assert f"{tuned}: {note}" in report.notes
    with pytest.raises(LoratoolsError, match="nothing to extract"):
        loratools.svd_extract(base, base, dry_run=True)


def test_a_swap_leaves_the_hashes_and_says_so(tmp_path: Path, adapter: Path) -> None:
    model = write_file(tmp_path / "model.safetensors", **STALE)
    report = present(loratools.swap(model, adapter).merge)
    assert metadata_of(model) == SPEC | STALE
    (note,) = (note for note in report.notes if "hash" in note)
    assert note.startswith("model.safetensors: ")
    assert note.endswith("of the model without adapters, and left so")
    assert all(name in note for name in STALE)
