"""The files beside merged weights: the base's, and what adapters bring."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.errors import FormatError, LoratoolsError, StorageError
from loratools.merging.report import MergeReport
from loratools.reshaping.rescaled import Rescaling
from tests.merged import read_json
from tests.narrowing import present
from tests.verbs import RESHAPING, VERBS

GROWN = "adapters/embedding-vocab"


@pytest.fixture
def base(fixtures: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fixtures / "stories260k", tmp_path / "base")


@pytest.fixture
def adapter(fixtures: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(fixtures / "adapters/plain" / name, folder)
    return folder


def merged(base: Path, *adapters: Path) -> tuple[Path, MergeReport]:
    output = base.parent / "merged"
    report = loratools.merge(base, list(adapters), output=output)
    return output, report


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def put(folder: Path, **contents: object) -> None:
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_json", ".json").replace(
            "_jinja", ".jinja"
        )
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "tokenizer_config.json")


def set_config(folder: Path, **fields: str) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | fields))


@pytest.mark.parametrize("beside", ["chat_template.jinja", "tokenizer_config.json", "vocab.json"])
def test_a_lone_file_of_a_tokenizer_never_removes_the_tokenizer(
    base: Path, adapter: Path, beside: str
) -> None:
    (adapter / beside).write_text('{"pad_token": "<unk>"}')
    before = files(base)
    output, report = merged(base, adapter)
    assert before <= files(output)
    assert (output / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert any(beside in note for note in report.to_json()["notes"])


def test_a_tokenizer_that_an_adapter_brings_is_taken_whole(
    base: Path, adapter: Path, fixtures: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(fixtures / GROWN / name, adapter)
    put(
        base, chat_template_jinja="old", added_tokens_json={}, additional_chat_templates__a_jinja=""
    )
    output, report = merged(base, adapter)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (output / name).read_bytes() == (adapter / name).read_bytes()
    gone = ["added_tokens.json", "additional_chat_templates/a.jinja", "chat_template.jinja"]
    assert not files(output) & {*gone}
    assert report.notes == (
        f"{', '.join(gone)}: of the base's tokenizer, and not taken beside that of the adapter",
    )


def test_a_template_in_settings_that_are_replaced_is_named(
    base: Path, adapter: Path, fixtures: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(fixtures / GROWN / name, adapter)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "old"}))
    _, report = merged(base, adapter)
    (note,) = report.notes
    assert note.startswith("chat_template in tokenizer_config.json: of the base's tokenizer")


def test_special_tokens_with_other_ids_leave_no_settings_beside_a_lone_vocabulary(
    base: Path, adapter: Path, fixtures: Path
) -> None:
    tokenizer = json.loads((fixtures / GROWN / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    token = json.loads((base / "tokenizer_config.json").read_text())["eos_token"]
    other = next(t for t, n in vocabulary.items() if n == 300)
    vocabulary[other], vocabulary[token] = vocabulary[token], vocabulary[other]
    tokenizer["added_tokens"] = []
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    output, report = merged(base, adapter)
    assert "tokenizer_config.json" not in files(output)
    assert "tokenizer_config.json: of the base's tokenizer" in report.notes[0]


@pytest.mark.parametrize(
    ("brought", "here", "is_whole"),
    [
        (["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"], True),
        (["spiece.model"], ["tokenizer.json"], True),
        (["vocab.json", "merges.txt"], ["tokenizer.json"], True),
        (["vocab.json", "merges.txt"], ["vocab.json", "merges.txt", "normalizer.json"], True),
        (["vocab.json"], ["vocab.json", "tokenizer_config.json"], True),
        (["vocab.json"], ["vocab.json", "merges.txt"], False),
        (["merges.txt"], ["tokenizer.json"], False),
        (["tokenizer_config.json", "special_tokens_map.json"], ["tokenizer.json"], False),
        (["chat_template.jinja"], ["tokenizer.json"], False),
        ([], ["tokenizer.json"], False),
    ],
)
def test_what_makes_a_tokenizer(brought: list[str], here: list[str], is_whole: bool) -> None:
    from loratools.io.companions import has_tokenizer

    assert has_tokenizer(brought, here) == is_whole


def test_a_template_alone_replaces_every_template(base: Path, adapter: Path) -> None:
    """Whichever place a reader takes it from."""
    set_config(base, chat_template="old")
    put(base, chat_template_jinja="old", chat_template_json={"chat_template": "old"})
    put(base, additional_chat_templates__tools_jinja="old")
    put(adapter, chat_template_jinja="new")
    output, report = merged(base, adapter)
    assert (output / "chat_template.jinja").read_text() == "new"
    assert config(output) == config(base) | {"chat_template": "new"}
    assert not files(output) & {"chat_template.json", "additional_chat_templates/tools.jinja"}
    assert report.notes == (
        "chat_template.jinja: from the adapter; other files of the tokenizer stay as they are",
    )


def test_a_template_in_settings_replaces_one_in_a_file(base: Path, adapter: Path) -> None:
    put(base, chat_template_jinja="old")
    shutil.copy(base / "tokenizer_config.json", adapter)
    set_config(adapter, chat_template="new")
    output, _ = merged(base, adapter)
    assert config(output)["chat_template"] == "new"
    assert "chat_template.jinja" not in files(output)


def test_an_old_processors_template_becomes_that_of_the_tokenizer_too(
    base: Path, adapter: Path
) -> None:
    put(base, chat_template_jinja="old")
    put(adapter, chat_template_json={"chat_template": "new"})
    output, _ = merged(base, adapter)
    assert (output / "chat_template.jinja").read_text() == "new"
    assert json.loads((output / "chat_template.json").read_text()) == {"chat_template": "new"}


def test_settings_without_a_template_leave_the_bases(base: Path, adapter: Path) -> None:
    set_config(base, chat_template="old", tokenizer_class="Base")
    put(adapter, tokenizer_config_json={"tokenizer_class": "Other", "pad_token": "<unk>"})
    output, _ = merged(base, adapter)
    assert config(output) == {
        "tokenizer_class": "Base",
        "pad_token": "<unk>",
        "chat_template": "old",
        "backend": "tokenizers",
    }


def token(content: str) -> dict[str, object]:
    return {"content": content, "special": True}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"512": token("<new>")}}, None),
        ("tokenizer_config.json", {"added_tokens_decoder": {"2": token("</s>")}}, None),
        ("added_tokens.json", {"<new>": 512, "<newer>": 513}, None),
        ("special_tokens_map.json", {"pad_token": "<unk>"}, None),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"5": token("<new>")}},
            "gives the id 5 to '<new>', and the vocabulary that stays has another",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"512": token("</s>")}},
            "gives the id 512 to '</s>', and the vocabulary that stays has another",
        ),
        (
            "added_tokens.json",
            {"<new>": 520},
            "gives the id 520 to '<new>', and the next free one is 512",
        ),
        ("added_tokens.json", {"<new>": "x"}, "cannot be compared"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": 1}}, "cannot be compared"),
    ],
)
def test_settings_that_contradict_the_vocabulary_that_stays_are_not_taken(
    base: Path, adapter: Path, name: str, content: dict[str, Any], why: str | None
) -> None:
    put(base, added_tokens_json={}, special_tokens_map_json={})
    (adapter / name).write_text(json.dumps(content))
    before = (base / name).read_bytes()
    output, report = merged(base, adapter)
    if why is None:
        assert json.loads((output / name).read_text()).items() >= content.items()
        assert f"{name}: from the adapter" in report.notes[0]
    else:
        assert (output / name).read_bytes() == before
        assert f"{name}: not taken from the adapter: " in report.notes[0]
        assert why in report.notes[0]


def test_the_same_files_as_the_bases_are_nothing_to_speak_of(base: Path, adapter: Path) -> None:
    shutil.copy(base / "tokenizer_config.json", adapter)
    output, report = merged(base, adapter)
    assert not report.notes
    assert files(output) == files(base)


def test_a_processor_is_the_adapters_where_it_brings_one(base: Path, adapter: Path) -> None:
    put(base, preprocessor_config_json={"size": 1}, processor_config_json={})
    put(adapter, preprocessor_config_json={"size": 2})
    output, report = merged(base, adapter)
    assert json.loads((output / "preprocessor_config.json").read_text()) == {"size": 2}
    assert (output / "processor_config.json").exists()
    assert report.notes == ("preprocessor_config.json: that of the adapter",)


def test_where_two_adapters_bring_different_files_the_later_is_taken_and_said(
    base: Path, adapter: Path, fixtures: Path
) -> None:
    other = shutil.copytree(adapter, adapter.parent / "other")
    for folder, source in ((adapter, "embedding-vocab"), (other, "embedding-lora-resized")):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(fixtures / "adapters" / source / name, folder)
    set_config(other, pad_token="<unk>")
    output, report = merged(base, adapter, other)
    assert (output / "tokenizer_config.json").read_bytes() == (
        other / "tokenizer_config.json"
    ).read_bytes()
    assert (
        f"tokenizer_config.json: {adapter} and {other} differ; the latter's is taken"
        in report.notes
    )


def test_lone_files_of_two_adapters_are_both_taken(base: Path, adapter: Path) -> None:
    other = shutil.copytree(adapter, adapter.parent / "other")
    set_config(base, chat_template="old")
    put(adapter, chat_template_jinja="first", special_tokens_map_json={"pad_token": "<unk>"})
    put(other, chat_template_json={"chat_template": "second"})
    output, _ = merged(base, adapter, other)
    assert (output / "chat_template.jinja").read_text() == "second"
    assert config(output)["chat_template"] == "second"
    assert "special_tokens_map.json" in files(output)


def test_what_a_combination_takes_of_the_first_adapter_only_is_said(
    base: Path, adapter: Path
) -> None:
    other = shutil.copytree(adapter, adapter.parent / "other")
    put(adapter, chat_template_jinja="one", special_tokens_map_json={})
    put(other, chat_template_jinja="two", special_tokens_map_json={}, vocab_json={})
    output = adapter.parent / "out"
    report = loratools.combine([adapter, other], output=output)
    assert (output / "chat_template.jinja").read_text() == "one"
    assert "vocab.json" not in files(output)
    said = [note for note in report.notes if note.endswith("and not taken")]
    assert said == [f"{other}: chat_template.jinja, vocab.json: not as in {adapter}, and not taken"]


LEFT = (
    "adapter_config.json", "adapter_model.safetensors", "training_args.bin", "optimizer.pt",
    "random_states_0.pkl", "trainer_state.json", "README.md", "events.out.tfevents.1.host",
)  # fmt: skip


def test_what_is_not_the_merged_models_is_not_copied_and_named(base: Path, adapter: Path) -> None:
    """An `adapter_config.json` would make transformers look for an adapter."""
    for name in LEFT:
        (base / name).write_text("{}")
    for name in (".git/config", "checkpoint-500/config.json", "lora/adapter_config.json"):
        put(base, **{name.replace("/", "__"): "{}"})
    (base / "lora/notes.txt").write_text("x")
    put(base, extra__README="x")
    output, report = merged(base, adapter)
    assert not files(output) & set(LEFT)
    assert files(output) == {
        "SOURCE.json", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json", "extra/README",
    }  # fmt: skip
    assert report.to_json()["files_left_out"] == sorted([*LEFT, ".git", "checkpoint-500", "lora"])


# --- links, and what is no file ------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


@pytest.mark.parametrize("kind", ["link", "folder link", "deeper link", "pipe", "device"])
def test_a_merge_copies_no_file_of_the_base_that_a_link_leads_to(
    base: Path, adapter: Path, secret: Path, kind: str
) -> None:
    if kind == "link":
        (base / "LICENSE").symlink_to(secret)
    elif kind == "folder link":
        (base / "LICENSE").symlink_to(secret.parent)
    elif kind == "deeper link":
        (base / "sub").mkdir()
        (base / "sub/LICENSE").symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(base / "LICENSE")
    else:
        (base / "LICENSE").symlink_to("/dev/zero")
    with pytest.raises(FormatError, match=r"LICENSE: (a link|not a regular file)"):
        merged(base, adapter)
    assert not (base.parent / "merged").exists()
    assert not list(base.parent.glob(".merged*"))


@pytest.mark.parametrize("verb", ["merge", *RESHAPING])
@pytest.mark.parametrize("kind", ["link", "link to a device", "pipe"])
def test_no_verb_copies_a_tokenizer_that_a_link_leads_to(
    base: Path, adapter: Path, secret: Path, verb: str, kind: str
) -> None:
    if kind == "pipe":
        os.mkfifo(adapter / "tokenizer.json")
    else:
        (adapter / "tokenizer.json").symlink_to(secret if kind == "link" else "/dev/zero")
    output = adapter.parent / "out"
    run = present(VERBS[verb].in_python)
    with pytest.raises(FormatError, match=r"tokenizer\.json: (a link|not a regular file)"):
        run(base, adapter, adapter, output)
    assert not output.exists()
    loratools.inspect(adapter)


def test_extraction_copies_no_tokenizer_that_a_link_leads_to(
    base: Path, adapter: Path, secret: Path
) -> None:
    tuned, _ = merged(base, adapter)
    (tuned / "tokenizer.json").unlink()
    (tuned / "tokenizer.json").symlink_to(secret)
    with pytest.raises(FormatError, match=r"tokenizer\.json: a link"):
        loratools.svd_extract(tuned, base, output=tuned.parent / "out")


def test_a_folder_of_the_base_that_cannot_be_read_is_named(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests may run as a user who may read everything."""
    (base / "sub").mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if Path(path) == base / "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"base/sub/?: permission denied"):
        merged(base, adapter)


# --- room ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["merge", "rescale", "svd-extract"])
def test_companions_count_in_the_check_of_free_space(
    base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    tuned, _ = merged(base, adapter)
    for folder in (base, adapter, tuned):
        with (folder / "tokenizer.json").open("wb") as file:
            file.truncate(10**9)
    free = shutil.disk_usage(base)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    output = base.parent / "out"
    run: dict[str, Callable[[], object]] = {
        "merge": lambda: loratools.merge(base, adapter, output=output),
        "rescale": lambda: loratools.rescale(
            adapter, output=output, rescaling=Rescaling(strength=0.5)
        ),
        "svd-extract": lambda: loratools.svd_extract(tuned, base, output=output),
    }
    with pytest.raises(LoratoolsError, match=r"\d{10} bytes are needed and 1000000000 are free"):
        run[verb]()
    assert not output.exists()
