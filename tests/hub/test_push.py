"""What push refuses, and what it takes in more than one form."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools import PushOptions
from loratools.errors import (
    FormatError,
    HubError,
    NonFiniteError,
    OutputError,
    StorageError,
    UnsupportedError,
)
from loratools.hub.writing import Addition
from tests.e2e.commands import PLAIN, SHARDED

BASE = "ann/stories"


@pytest.fixture
def signed_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    return hub


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(PLAIN / name, folder / name)
    return folder


def push(folder, name="ann/plain", **options):
    return loratools.push(folder, name, PushOptions(create=True, **options))


def set_config(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def set_base(folder, name):
    set_config(folder, base_model_name_or_path=name)


def set_weight(folder, value):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (
            lambda f: set_base(f, "/models/llama"),
            UnsupportedError,
            "path",
        ),
        (lambda f: set_base(f, "../llama"), UnsupportedError, "path"),
        (lambda f: set_base(f, "C:\\llama"), UnsupportedError, "path"),
        (lambda f: set_weight(f, torch.nan), NonFiniteError, "adapter_model.safetensors: base_"),
        (lambda f: set_config(f, target_modules=["q_proj", "none"]), FormatError, "not in target"),
        (lambda f: (f / "optimizer.pt").write_bytes(b"x"), UnsupportedError, "pickles"),
        (lambda f: (f / "notes.txt").write_bytes(b"x"), UnsupportedError, "none of its own"),
        (lambda f: (f / "LICENSE").symlink_to("nowhere"), StorageError, "LICENSE"),
    ],
    ids=["absolute", "relative", "drive", "NaN", "unsound", "pickle", "other file", "no file"],
)
def test_what_would_embarrass_is_refused_before_anything_is_sent(
    signed_in, adapter, spoil, error, match
):
    spoil(adapter)
    with pytest.raises(error, match=match):
        push(adapter)
    assert not signed_in.log.of("POST")


def test_after_a_refusal_no_more_is_hashed(signed_in, adapter, monkeypatch):
    hashed = []

    def slowly(name, path):
        time.sleep(0.2)
        hashed.append(name)

    monkeypatch.setattr(Addition, "of", slowly)
    for number in range(20):
        (adapter / f"{number}.txt").write_bytes(b"x")
    set_weight(adapter, torch.nan)
    with pytest.raises(NonFiniteError):
        push(adapter, all_files=True)
    assert len(hashed) < 20


def test_other_files_go_along_where_that_is_asked_for_and_pickles_never(signed_in, adapter):
    (adapter / "notes.txt").write_bytes(b"x")
    (adapter / ".hidden").write_bytes(b"x")
    report = push(adapter, all_files=True)
    assert "notes.txt" in report.files
    assert report.left_out == (".hidden",)
    (adapter / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(UnsupportedError, match="pickles"):
        push(adapter, all_files=True)


def test_names_may_have_their_scheme(signed_in, adapter):
    report = push(adapter, "hf://ann/plain", base=f"hf://{BASE}")
    config = json.loads(signed_in.files("ann/plain")["adapter_config.json"])
    assert (report.repo, config["base_model_name_or_path"]) == ("ann/plain", BASE)
    with pytest.raises(UnsupportedError, match="pull it first"):
        push("hf://ann/plain", "ann/other")


def test_an_output_is_not_on_the_hub(signed_in):
    with pytest.raises(OutputError, match="loratools push"):
        loratools.merge(SHARDED, PLAIN, output="hf://ann/merged")


def test_a_tag_of_another_commit_is_refused_before_anything_is_sent(signed_in, adapter):
    first = push(adapter, tag="v1")
    assert push(adapter, tag="v1").commit == first.commit, "the same again"
    set_weight(adapter, 2.0)
    with pytest.raises(HubError, match="v1 is there already"):
        push(adapter, tag="v1")
    assert signed_in.head("ann/plain") == first.commit


def test_a_missing_repository_is_made_where_that_is_asked_for(signed_in, adapter):
    with pytest.raises(HubError, match="--create makes one"):
        loratools.push(adapter, "ann/plain")
    assert push(adapter).commit == signed_in.head("ann/plain")


def test_a_merged_model_has_no_card_of_its_base(signed_in, adapter, tmp_path):
    base = shutil.copytree(SHARDED, tmp_path / "base")
    (base / "README.md").write_text("# The base\n")
    loratools.merge(base, adapter, output=tmp_path / "merged")
    push(tmp_path / "merged", "ann/merged")
    assert "The base" not in signed_in.files("ann/merged")["README.md"].decode()
