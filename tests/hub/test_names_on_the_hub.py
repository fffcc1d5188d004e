"""`hf://` names where an adapter or a base is named: the same result as with files, and no more
fetched than it needs.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import loratools
from loratools.errors import FormatError, LoratoolsError, UnsupportedError
from loratools.files.opening import open_base
from loratools.lowrank.ranks import RankRule
from loratools.merging.execute import WriteOptions
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SMALL
from tests.hostile.test_sharded_adapters import split
from tests.hub.server import Hub
from tests.narrowing import present
from tests.verbs import VERBS

STORIES, ADAPTER, OTHER = "hf://ann/stories", "hf://ann/plain", "hf://ann/small"


def folder(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def stories(hub: Hub) -> Hub:
    others = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx", ".hidden": b"?"}
    hub.create_repo("ann/stories", folder(SHARDED) | others)
    hub.create_repo("ann/plain", folder(PLAIN) | {"optimizer.pt": b"pickle"})
    hub.create_repo("ann/small", folder(SMALL))
    return hub


def test_a_merge_is_that_of_the_files(stories: Hub, tmp_path: Path) -> None:
    loratools.merge(SHARDED, [PLAIN, SMALL], output=tmp_path / "here")
    loratools.merge(STORIES, [ADAPTER, OTHER], output=tmp_path / "there")
    assert folder(tmp_path / "here") == folder(tmp_path / "there")


def test_a_merge_fetches_what_it_needs_and_a_second_one_nothing(stories: Hub) -> None:
    loratools.merge(STORIES, ADAPTER, output=None)
    fetched = {request.path.rpartition("/")[2] for request in stories.log.of(path="/resolve/")}
    assert {"model-00001-of-00002.safetensors", "adapter_model.safetensors"} <= fetched
    assert not fetched & {"pytorch_model.bin", "model.onnx", ".hidden", "optimizer.pt"}
    stories.log.clear()
    loratools.merge(STORIES, ADAPTER, output=None)
    assert [request.path for request in stories.log] == [
        "/api/models/ann/stories",
        "/api/models/ann/plain",
    ]
    stories.log.clear()
    pinned = [f"hf://ann/{name}@{stories.head(f'ann/{name}')}" for name in ("stories", "plain")]
    loratools.merge(*pinned, output=None)
    assert not stories.log


def test_a_report_has_the_commits(stories: Hub) -> None:
    report = loratools.merge(STORIES, ADAPTER, output=None).to_json()
    assert report["base"] == f"hf://ann/stories@{stories.head('ann/stories')}"
    assert report["adapters"][0]["path"] == f"hf://ann/plain@{stories.head('ann/plain')}"


@pytest.mark.parametrize("file", ["", "/model.safetensors.index.json"])
def test_a_base_is_called_by_its_pinned_name_however_it_was_named(stories: Hub, file: str) -> None:
    named = open_base(f"{STORIES}{file}").where
    assert named == f"{STORIES}@{stories.head('ann/stories')}"


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.computes])
def test_every_verb_takes_names(stories: Hub, tmp_path: Path, name: str) -> None:
    base = "hf://ann/stories260k"  # as the adapters call it, else it would be remarked upon
    stories.create_repo("ann/stories260k", folder(SHARDED))
    run = present(VERBS[name].in_python)
    here, there = tmp_path / "here", tmp_path / "there"
    of_files = run(SHARDED, PLAIN, SMALL, here)
    of_names = run(base, ADAPTER, OTHER, there)
    if VERBS[name].writes:
        numbers = {file for file in folder(here) if file.endswith(".safetensors")}
        assert numbers
        assert {file: folder(here)[file] for file in numbers} == {
            file: data for file, data in folder(there).items() if file.endswith(".safetensors")
        }
    else:
        text = json.dumps(of_names.to_json())
        for path, named in ((SHARDED, base), (PLAIN, ADAPTER), (SMALL, OTHER)):
            commit = stories.head(named.removeprefix("hf://"))
            text = text.replace(f"{named}@{commit}", str(path)).replace(named, str(path))
        assert json.loads(text) == json.loads(json.dumps(of_files.to_json()))


def test_models_to_extract_from_have_names_too(stories: Hub, tmp_path: Path) -> None:
    """A model and itself, in which there is nothing to extract."""
    for model in (str(SHARDED), STORIES):
        with pytest.raises(loratools.LoratoolsError, match="nothing to extract: both models"):
            loratools.svd_extract(model, model, output=tmp_path / "out", rule=RankRule(rank=2))


def test_an_extracted_adapter_names_the_repository_of_its_base(
    stories: Hub, tmp_path: Path
) -> None:
    loratools.merge(STORIES, ADAPTER, output=tmp_path / "tuned")
    loratools.svd_extract(tmp_path / "tuned", STORIES, output=tmp_path / "out")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "ann/stories"


def test_an_inspection_transfers_headers_only(hub: Hub) -> None:
    """Of 300 MB, less than one."""
    factors = {
        f"base_model.model.layers.{layer}.q_proj.lora_{part}.weight": torch.zeros(shape)
        for layer in range(280)
        for part, shape in (("A", (16, 8192)), ("B", (8192, 16)))
    }
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": ["q_proj"]}
    weights = save(factors)
    assert len(weights) > 290_000_000
    hub.create_repo(
        "ann/large",
        {"adapter_model.safetensors": weights, "adapter_config.json": json.dumps(config).encode()},
    )
    found = loratools.inspect("hf://ann/large")
    assert found.parameters == 280 * 2 * 16 * 8192
    assert hub.log.sent < 1_000_000


def test_an_inspection_reads_the_alphas_of_a_kohya_file(hub: Hub, tmp_path: Path) -> None:
    tensors = {}
    for number in range(20):
        name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_{number}_attn1_to_q"
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, 20000)
        tensors[f"{name}.lora_up.weight"] = torch.randn(8, 4)
        tensors[f"{name}.alpha"] = torch.tensor(float(number + 1))
    file = tmp_path / "style.safetensors"
    file.write_bytes(save(tensors))
    hub.create_repo("ann/style", {"style.safetensors": file.read_bytes()})
    here, there = loratools.inspect(file), loratools.inspect("hf://ann/style/style.safetensors")
    assert here.groups == there.groups
    assert there.adapter.where.endswith("/style.safetensors")
    assert hub.log.sent < file.stat().st_size / 5


def test_a_folder_of_adapters_names_those_in_it(hub: Hub) -> None:
    hub.create_repo(
        "ann/many", {f"{n}/{p}": data for n in "ab" for p, data in folder(PLAIN).items()}
    )
    with pytest.raises(loratools.LoratoolsError) as caught:
        loratools.open_adapter("hf://ann/many")
    named = re.search(r"name the folder of an adapter in it: (\S+)/a, \1/b$", str(caught.value))
    assert named is not None
    assert loratools.inspect(f"{named[1]}/a").groups == loratools.inspect(PLAIN).groups


def test_a_list_has_each_adapter_of_a_repository_and_names_the_rest(hub: Hub) -> None:
    locon = (FIXTURES / "kohya/sd15-locon/sd15-locon.safetensors").read_bytes()
    styles = {f"styles/{name}.safetensors": locon for name in ("v2", "v10")}
    plain = {f"plain/{name}": data for name, data in folder(PLAIN).items()}
    hub.create_repo("ann/several", {**styles, **plain, "README.md": b"x", "a/b/c.png": b"x"})
    found = loratools.inspect(["hf://ann/several"])
    assert [(row.name, row.verdict) for row in found] == [
        (".gitattributes", "no adapter"), ("a/b", "no adapter"), ("plain", "ok"),
        ("README.md", "no adapter"),
        ("styles/v2.safetensors", "ok"), ("styles/v10.safetensors", "ok"),
    ]  # fmt: skip
    for row in found:
        if row.inspection is not None:
            assert loratools.inspect(row.path).to_json() == row.inspection.to_json()


def test_an_inspection_reads_what_was_fetched_from_the_cache(
    stories: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    loratools.pull("ann/plain")
    stories.log.clear()
    found = loratools.inspect(ADAPTER)
    assert [request.path for request in stories.log] == ["/api/models/ann/plain"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    stories.log.clear()
    assert loratools.inspect(ADAPTER).groups == found.groups == loratools.inspect(PLAIN).groups
    assert not stories.log


def test_an_adapter_in_several_files_comes_whole(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folder(split(PLAIN, tmp_path / "sharded"))
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    options = loratools.PushOptions(create=True, base="ann/stories")
    pushed = loratools.push(tmp_path / "sharded", "ann/sharded", options)
    assert files.keys() <= set(pushed.files)
    whole = loratools.inspect(PLAIN).parameters
    for name in ("", "/adapter_model.safetensors.index.json"):
        assert loratools.inspect(f"hf://ann/sharded{name}").parameters == whole
    pulled = loratools.pull("ann/sharded", output=tmp_path / "pulled", lock=tmp_path / "lock")
    assert files.keys() <= pulled.files.keys()
    assert loratools.inspect(tmp_path / "pulled").parameters == whole
    assert (
        files.keys()
        <= json.loads((tmp_path / "lock").read_text())["repositories"]["ann/sharded"][
            "files"
        ].keys()
    )
    part = "adapter_model-00001-of-00002.safetensors"
    with pytest.raises(FormatError, match=f"{part}: one of 2 parts"):
        loratools.pull(f"ann/sharded/{part}")


def test_weights_beside_an_adapter_on_the_hub_are_named_though_not_fetched(stories: Hub) -> None:
    for spectrum in (False, True):
        assert loratools.inspect(ADAPTER, spectrum=spectrum).adapter.beside == ()
    stories.create_repo("ann/headed", folder(PLAIN) | {"value_head.bin": b"?", "sub/x.pt": b"?"})
    for spectrum in (False, True):
        found = loratools.inspect("hf://ann/headed", spectrum=spectrum)
        assert found.adapter.beside == ("sub/x.pt", "value_head.bin")
        assert not found.is_sound


def test_an_overlay_and_its_base_can_both_be_on_the_hub(stories: Hub, tmp_path: Path) -> None:
    write = WriteOptions(only_changed=True)
    loratools.merge(STORIES, OTHER, output=tmp_path / "overlay", write=write)
    stories.create_repo("ann/overlay", folder(tmp_path / "overlay") | {"README.md": b"?"})
    loratools.merge(SHARDED, SMALL, output=tmp_path / "full")
    there = f"{STORIES}+hf://ann/overlay"
    loratools.inspect(ADAPTER, base=there)
    fetched = {request.path.rpartition("/")[2] for request in stories.log.of(path="/resolve/")}
    assert "overlay.json" in fetched
    names: list[str | Path] = [there, f"{STORIES}+{tmp_path / 'overlay'}", Path(there)]
    for number, name in enumerate(names):
        loratools.merge(name, [], output=tmp_path / f"made-{number}")
        assert folder(tmp_path / f"made-{number}") == folder(tmp_path / "full")
    head = stories.head("ann/stories")
    assert json.loads((tmp_path / "overlay/overlay.json").read_text())["base"]["name"] == (
        f"hf://ann/stories@{head}"
    )
    loratools.pull("ann/overlay", output=tmp_path / "pulled")
    assert folder(tmp_path / "pulled") == folder(tmp_path / "overlay") | {"README.md": b"?"}
    with pytest.raises(UnsupportedError, match=r"an overlay, .* where an adapter is expected"):
        loratools.push(tmp_path / "overlay", "ann/overlay")
    with pytest.raises(UnsupportedError, match=r"an overlay, .* where a base model is expected"):
        open_base("hf://ann/overlay")
    with pytest.raises(UnsupportedError, match=r"an overlay, .* where an adapter is expected"):
        loratools.inspect("hf://ann/overlay")


@pytest.mark.parametrize(
    ("text", "what"), [("{", "not valid JSON"), ('{"peft_type": 3}', "peft_type")]
)
@pytest.mark.parametrize("headers", [True, False])
def test_an_error_in_a_config_names_it_as_the_hub_does(
    hub: Hub, text: str, what: str, headers: bool
) -> None:
    hub.create_repo("ann/mine", folder(SMALL) | {"adapter_config.json": text.encode()})
    with pytest.raises(LoratoolsError, match=what) as caught:
        loratools.open_adapter("hf://ann/mine", headers=headers)
    file = f"hf://ann/mine@{hub.head('ann/mine')}/adapter_config.json"
    assert caught.value.file == file
    assert str(caught.value).startswith(f"{file}: ")
