"""What push refuses, and what it takes in more than one form."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools import PushOptions, PushReport
from loratools.errors import (
    FormatError,
    HubError,
    LoratoolsError,
    NonFiniteError,
    OptionError,
    OutputError,
    StorageError,
    UnsupportedError,
)
from loratools.hub import writing
from loratools.hub.writing import Addition
from loratools.hub.xet import Told
from loratools.io.file import InputFile
from tests.e2e.commands import PLAIN, SHARDED
from tests.hub.server import Hub
from tests.merged import at_most_more

BASE = "ann/stories"


@pytest.fixture
def signed_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    return hub


def push(folder: Path | str, name: str = "ann/plain", **options: Any) -> PushReport:
    return loratools.push(folder, name, PushOptions(create=True, **options))


def set_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def set_base(folder: Path, name: str) -> None:
    set_config(folder, base_model_name_or_path=name)


def set_weight(folder: Path, value: float) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, path)


def test_an_opened_adapter_that_is_refused_is_named_as_its_user_knows_it(adapter: Path) -> None:
    set_base(adapter, "/models/llama")
    opened = loratools.open_adapter(adapter)
    with pytest.raises(UnsupportedError, match=rf"^{adapter}: names /models/llama as") as caught:
        loratools.push(opened, "ann/plain", dry_run=True)
    assert caught.value.file == str(adapter)


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
        (lambda f: (f / "LICENSE").symlink_to("nowhere"), FormatError, "LICENSE: a link"),
    ],
    ids=["absolute", "relative", "drive", "NaN", "unsound", "pickle", "other file", "link"],
)
def test_what_would_embarrass_is_refused_before_anything_is_sent(
    signed_in: Hub,
    adapter: Path,
    spoil: Callable[[Path], int | None],
    error: type[LoratoolsError],
    match: str,
) -> None:
    spoil(adapter)
    with pytest.raises(error, match=match):
        push(adapter)
    assert not signed_in.log.of("POST")


def test_after_a_refusal_no_more_is_hashed(
    signed_in: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def slowly(name: str, path: InputFile, told: Told) -> None:
        time.sleep(0.2)
        hashed.append(name)

    monkeypatch.setattr(Addition, "of", slowly)
    for number in range(20):
        (adapter / f"{number}.txt").write_bytes(b"x")
    set_weight(adapter, torch.nan)
    with pytest.raises(NonFiniteError):
        push(adapter, all_files=True)
    assert len(hashed) < 20


def test_other_files_go_along_where_that_is_asked_for_and_pickles_never(
    signed_in: Hub, adapter: Path
) -> None:
    (adapter / "notes.txt").write_bytes(b"x")
    (adapter / ".hidden").write_bytes(b"x")
    report = push(adapter, all_files=True)
    assert "notes.txt" in report.files
    assert report.left_out == (".hidden",)
    (adapter / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(UnsupportedError, match="pickles"):
        push(adapter, all_files=True)


def test_weights_beside_an_adapter_are_sent_where_that_is_asked_for(
    signed_in: Hub, adapter: Path
) -> None:
    shutil.copy(adapter / "adapter_model.safetensors", adapter / "value_head.safetensors")
    with pytest.raises(UnsupportedError, match=r"none of its own \(value_head\.safetensors\)"):
        push(adapter)
    assert "value_head.safetensors" in push(adapter, all_files=True).files


def test_names_may_have_their_scheme(signed_in: Hub, adapter: Path) -> None:
    report = push(adapter, "hf://ann/plain", base=f"hf://{BASE}")
    config = json.loads(signed_in.files("ann/plain")["adapter_config.json"])
    assert (report.repo, config["base_model_name_or_path"]) == ("ann/plain", BASE)
    with pytest.raises(UnsupportedError, match="pull it first"):
        push("hf://ann/plain", "ann/other")


def test_an_output_is_not_on_the_hub(signed_in: Hub) -> None:
    with pytest.raises(OutputError, match=r"loratools\.push sends it"):
        loratools.merge(SHARDED, PLAIN, output="hf://ann/merged")


def test_a_tag_of_another_commit_is_refused_before_anything_is_sent(
    signed_in: Hub, adapter: Path
) -> None:
    first = push(adapter, tag="v1")
    assert push(adapter, tag="v1").commit == first.commit, "the same again"
    set_weight(adapter, 2.0)
    with pytest.raises(HubError, match="v1 is there already"):
        push(adapter, tag="v1")
    assert signed_in.head("ann/plain") == first.commit


def test_a_missing_repository_is_made_where_that_is_asked_for(
    signed_in: Hub, adapter: Path
) -> None:
    with pytest.raises(HubError, match="; create=True makes one"):
        loratools.push(adapter, "ann/plain")
    assert push(adapter).commit == signed_in.head("ann/plain")


def test_a_merged_model_has_no_card_of_its_base(
    signed_in: Hub, adapter: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(SHARDED, tmp_path / "base")
    (base / "README.md").write_text("# The base\n")
    loratools.merge(base, adapter, output=tmp_path / "merged")
    push(tmp_path / "merged", "ann/merged")
    assert "The base" not in signed_in.files("ann/merged")["README.md"].decode()


# --- only files of the folder itself -------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside/secret"
    path.write_text("secret")
    return path


OUTWARD = {
    "a companion": ("LICENSE", lambda path, secret: path.symlink_to(secret)),
    "the card": ("README.md", lambda path, secret: path.symlink_to(secret)),
    "a tokenizer": ("tokenizer.json", lambda path, secret: path.symlink_to(secret)),
    "any file": ("notes.txt", lambda path, secret: path.symlink_to(secret)),
    "a folder": ("notes", lambda path, secret: path.symlink_to(secret.parent)),
    "a hidden file by another name": ("notes.txt", lambda path, secret: path.symlink_to(".env")),
    "a device": ("README.md", lambda path, secret: path.symlink_to("/dev/zero")),
    "a pipe": ("LICENSE", lambda path, secret: os.mkfifo(path)),
    "a card that is a pipe": ("README.md", lambda path, secret: os.mkfifo(path)),
    "the weights": (
        "adapter_model.safetensors",
        lambda path, secret: path.rename(secret) and path.symlink_to(secret),
    ),
    "the config": (
        "adapter_config.json",
        lambda path, secret: path.rename(secret) and path.symlink_to(secret),
    ),
}


@pytest.mark.parametrize(("name", "put"), OUTWARD.values(), ids=OUTWARD)
def test_nothing_is_sent_that_a_link_leads_to(
    signed_in: Hub, adapter: Path, secret: Path, name: str, put: Callable[[Path, Path], None]
) -> None:
    put(adapter / name, secret)
    with pytest.raises(FormatError, match=f"{name}: (a link|not a regular file)"):
        push(adapter, all_files=True)
    assert not signed_in.log.of("POST")


def test_a_merged_model_is_held_to_the_same(signed_in: Hub, tmp_path: Path, secret: Path) -> None:
    model = shutil.copytree(SHARDED, tmp_path / "model")
    (model / "extra").symlink_to(secret.parent)
    with pytest.raises(FormatError, match="extra: a link"):
        push(model)
    assert not signed_in.log.of("POST")


def test_the_folder_itself_may_be_named_by_a_link(
    signed_in: Hub, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "named").symlink_to(adapter)
    assert "adapter_model.safetensors" in push(tmp_path / "named").files


def test_what_was_fetched_to_a_cache_is_sent_from_there(signed_in: Hub, adapter: Path) -> None:
    push(adapter, "ann/plain", base=BASE)
    cached = loratools.pull("ann/plain").folder
    assert Path(cached, "adapter_config.json").is_symlink()
    push(cached, "ann/copy")
    sent, first = signed_in.files("ann/copy"), signed_in.files("ann/plain")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert sent[name] == first[name]


@pytest.mark.parametrize(("size", "most_open"), [(100, 0), (2_000_000, 64), (2_000_000, 0)])
def test_what_was_checked_is_what_is_sent(
    signed_in: Hub,
    adapter: Path,
    secret: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    most_open: int,
) -> None:
    """A link that takes a file's place after the check is not followed when it is sent.

    A small file was read before. A larger one may be open still; if not, it is refused.
    """
    monkeypatch.setattr("loratools.io.descriptors._MOST", most_open)
    content = bytes(range(100)) * (size // 100)
    (adapter / "notes.dat").write_bytes(content)
    commit = writing.commit

    def late(*arguments: Any, **options: Any) -> tuple[str, int | None]:
        (adapter / "notes.dat").unlink()
        (adapter / "notes.dat").symlink_to(secret)
        return commit(*arguments, **options)

    monkeypatch.setattr(writing, "commit", late)
    if size > 2**20 and most_open == 0:
        with pytest.raises(FormatError, match=r"notes\.dat: a link"):
            push(adapter, all_files=True)
        assert "notes.dat" not in signed_in.files("ann/plain")
    else:
        push(adapter, all_files=True)
        assert signed_in.files("ann/plain")["notes.dat"] == content


@pytest.mark.parametrize("names", ["onnx", "txt"])
def test_more_files_are_sent_than_may_be_open(
    signed_in: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    """Of what the Hub stores apart, and of what it stores as text."""
    monkeypatch.setattr(writing, "_SMALL_BYTES", 10)
    sent = {f"notes-{number}.{names}": b"%020d" % number for number in range(150)}
    for name, content in sent.items():
        (adapter / name).write_bytes(content)
    with at_most_more(120):
        push(adapter, all_files=True)
    files = signed_in.files("ann/plain")
    assert {name: files[name] for name in sent} == sent


@pytest.mark.parametrize("all_files", [False, True])
def test_a_model_is_sent_without_what_makes_it_look_like_an_adapter(
    signed_in: Hub, tmp_path: Path, all_files: bool
) -> None:
    model = shutil.copytree(SHARDED, tmp_path / "model")
    shutil.copy(PLAIN / "adapter_config.json", model)
    report = push(model, "ann/model", all_files=all_files)
    assert report.left_out == ("adapter_config.json",)
    assert "model-00001-of-00002.safetensors" in report.files
    assert "adapter_config.json" not in signed_in.files("ann/model")


def test_a_card_that_is_too_long_to_be_one_is_not_read(signed_in: Hub, adapter: Path) -> None:
    with (adapter / "README.md").open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(FormatError, match=r"README.md: 20000000 bytes are too many for a card"):
        push(adapter)
    assert not signed_in.log.of("POST", "commit")


def test_a_folder_that_cannot_be_read_is_named(
    signed_in: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (adapter / "sub").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path) == adapter / "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"sub/?: permission denied"):
        push(adapter)


def test_a_path_is_not_published_as_a_repository(signed_in: Hub, adapter: Path) -> None:
    with pytest.raises(HubError, match="a path, and not a name on the Hub"):
        push(adapter, "/ann/plain")
    assert "ann/plain" not in signed_in.repos


def test_what_is_to_be_private_is_made(signed_in: Hub, adapter: Path) -> None:
    """An existing repository would stay public."""
    with pytest.raises(OptionError, match="for a repository that is made; give create=True too"):
        loratools.push(adapter, "ann/plain", private=True)


def test_folder_and_repository_in_the_wrong_order_are_told_apart(
    signed_in: Hub, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter.parent)
    with pytest.raises(FormatError, match="ann/plain: no such folder; the folder comes first"):
        push("ann/plain", adapter.name)
