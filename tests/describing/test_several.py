"""Several adapters are described one by one, and whatever else is there is accounted for."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools.describing.description import Inspection
from loratools.describing.fields import with_models
from loratools.describing.rows import Inspections
from loratools.errors import (
    ArgumentError,
    FormatError,
    NotAnAdapterError,
    OptionError,
    StorageError,
)
from loratools.formats._modules.spelling import Spelling, without_adapter
from loratools.io.file import InputFile
from loratools.io.header import _known_entries
from loratools.names.grouping import pattern_of
from loratools.names.meant_for import _meant_for
from tests.e2e.commands import FIXTURES
from tests.merged import at_most_more, pair, write_adapter, write_base
from tests.narrowing import present

KOHYA = FIXTURES / "kohya/sd15-locon/sd15-locon.safetensors"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with two adapters and one file of each other sort."""
    folder = tmp_path / "mixed"
    write_adapter(folder / "plain", pair("model.layers.0.q_proj", 4, 3))
    shutil.copy(KOHYA, folder / "style.safetensors")
    save_file({"model.diffusion_model.a": torch.ones(1)}, folder / "checkpoint.safetensors")
    save_file({"emb_params": torch.ones(2, 768)}, folder / "embedding.safetensors")
    (folder / "cut.safetensors").write_bytes(KOHYA.read_bytes()[:2000])
    (folder / "style.preview.png").write_bytes(b"\x89PNG")
    (folder / "old.pt").write_bytes(b"never read")
    return folder


def test_a_list_has_a_row_for_all_that_is_in_a_folder(mixed: Path) -> None:
    found = loratools.inspect([mixed])
    assert [(row.name, row.verdict) for row in found] == [
        ("checkpoint.safetensors", "no adapter"),
        ("cut.safetensors", "unreadable"),
        ("embedding.safetensors", "no adapter"),
        ("old.pt", "no adapter"),
        ("plain", "ok"),
        ("style.preview.png", "no adapter"),
        ("style.safetensors", "ok"),
    ]
    assert [present(row.other).name for row in found.others] == [
        "a whole checkpoint", "a textual inversion", "a pickle", "an image",
    ]  # fmt: skip
    assert [row.path for row in found.unreadable] == [str(mixed / "cut.safetensors")]
    assert len(found.adapters) + len(found.others) + len(found.unreadable) == len(found)
    assert not found.is_sound
    assert all(row.is_sound for row in found.others)


def test_paths_are_those_that_an_adapter_alone_has(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mixed)
    (mixed / "LOUD.SAFETENSORS").hardlink_to(mixed / "style.safetensors")
    rows = loratools.inspect(["."]).to_json()
    names = [path.name for path in mixed.iterdir()]
    assert sorted(row["path"] for row in rows) == sorted(names)


def test_each_adapter_of_a_list_is_described_as_alone(mixed: Path) -> None:
    names = [mixed / "plain", mixed / "style.safetensors"]
    found = loratools.inspect(names, spectrum=True)
    for row, name in zip(found, names, strict=True):
        alone = loratools.inspect(name, spectrum=True)
        assert present(row.inspection).to_json() == alone.to_json()
        assert row.path == row.name == str(name)
    assert found.is_sound


def forget_other_adapters() -> None:
    for remembered in (_known_entries, Spelling.split, without_adapter, pattern_of, _meant_for):
        remembered.cache_clear()


def test_what_is_remembered_of_one_adapter_changes_nothing_of_another(tmp_path: Path) -> None:
    tensors = load_file(KOHYA)
    other = {
        key: tensor / 2 if key.endswith(".alpha") else tensor for key, tensor in tensors.items()
    }
    fewer = {key: tensor for key, tensor in tensors.items() if "_fc1." not in key}
    assert 0 < len(fewer) < len(tensors)
    save_file(tensors, tmp_path / "a.safetensors", {"ss_network_dim": "4"})
    save_file(other, tmp_path / "b.safetensors", {"ss_sd_model_name": "base"})
    save_file(fewer, tmp_path / "c.safetensors")
    alone = []
    for path in sorted(tmp_path.iterdir()):
        forget_other_adapters()
        alone += loratools.inspect([path]).to_json()
    assert loratools.inspect([tmp_path]).to_json() == alone
    assert len({json.dumps(row["targets"]) for row in alone}) == 3


def test_a_string_is_one_path_and_a_list_of_one_is_a_list() -> None:
    plain = FIXTURES / "adapters/plain"
    assert isinstance(loratools.inspect(str(plain)), Inspection)
    assert isinstance(loratools.inspect([str(plain)]), Inspections)
    assert len(loratools.inspect(iter([plain]))) == 1
    assert len(loratools.inspect([])) == 0


def test_a_path_of_any_type_is_a_path(mixed: Path) -> None:
    plain = mixed / "plain"
    with os.scandir(mixed) as entries:
        entry = next(entry for entry in entries if entry.name == "plain")
    path: Any
    for path in (os.fsencode(plain), entry):
        assert loratools.inspect(path).to_json() == loratools.inspect(plain).to_json()
        assert loratools.inspect([path]).to_json() == loratools.inspect([plain]).to_json()


def test_opened_adapters_are_described_as_by_their_paths(mixed: Path) -> None:
    opened = loratools.open_adapter(mixed / "plain")
    by_path = loratools.inspect(mixed / "plain", spectrum=True).to_json()
    assert loratools.inspect(opened, spectrum=True).to_json() == by_path
    one, other = loratools.inspect([opened, mixed / "plain"], spectrum=True)
    assert present(one.inspection).to_json() == present(other.inspection).to_json() == by_path
    assert (one.path, one.nbytes) == (other.path, other.nbytes)


@pytest.mark.parametrize("adapter", [5, None, [5], [None], [("a", 0.7)]])
def test_what_is_no_adapter_at_all_is_refused_in_one_line(adapter: object) -> None:
    with pytest.raises(
        ArgumentError, match=r"adapter: a path(,| or) an Adapter .*is expected, not"
    ):
        loratools.inspect(adapter)  # type: ignore[call-overload]


def test_a_path_of_several_adapters_is_refused_with_how_to_have_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy(KOHYA, tmp_path / f"{name}.safetensors")
    with pytest.raises(FormatError, match=r"inspect\(\['.*'\]\) describes each"):
        loratools.inspect(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FormatError, match="no adapter file in this folder") as raised:
        loratools.inspect(tmp_path / "none")
    assert "describes each" not in str(raised.value)


def test_options_that_are_for_one_or_for_several_are_refused_elsewhere(mixed: Path) -> None:
    config = mixed / "plain/adapter_config.json"
    with pytest.raises(OptionError, match="config is that of one adapter"):
        loratools.inspect([mixed], config=config)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="recursive is for a list"):
        loratools.inspect(mixed, recursive=True)  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="option of no format"):
        loratools.inspect([mixed], dialect_options={"nonsense": "1"})


def test_names_lead_to_rows_in_their_order_and_folders_to_sorted_ones(tmp_path: Path) -> None:
    for name in ("b10", "b9", "a"):
        write_adapter(tmp_path / "runs" / name, pair("q", 4, 3))
    names = [KOHYA, tmp_path / "runs", tmp_path / "missing", tmp_path / "runs/b10"]
    found = loratools.inspect(names)
    expected = [KOHYA, *(tmp_path / "runs" / n for n in ("a", "b9", "b10")), *names[2:]]
    assert [row.name for row in found] == [str(path) for path in expected]
    (missing,) = found.unreadable
    assert str(missing.error).startswith(f"{tmp_path / 'missing'}: no such file")


def test_a_model_is_named_whether_itself_or_its_folder_is(mixed: Path) -> None:
    shutil.copytree(FIXTURES / "stories260k", mixed / "base")
    for found in (loratools.inspect([mixed / "base"]), loratools.inspect([mixed])):
        assert [row.path for row in found if row.other and row.other.name == "a model"] == [
            str(mixed / "base")
        ]


def test_a_slice_of_inspections_is_inspections() -> None:
    found = loratools.inspect([FIXTURES / "adapters"])
    assert isinstance(found[:2], Inspections)
    assert [*found[:2], *found[2:]] == [*found]


def test_recursive_reaches_the_checkpoints_beneath_an_adapter(tmp_path: Path) -> None:
    for name in ("run", "run/checkpoint-100", "run/checkpoint-20"):
        write_adapter(tmp_path / name, pair("q", 4, 3))
    found = loratools.inspect([tmp_path / "run"], recursive=True)
    assert [row.name for row in found] == [
        str(tmp_path / "run"), "checkpoint-20", "checkpoint-100",
    ]  # fmt: skip
    assert [row.name for row in loratools.inspect([tmp_path / "run"])] == [str(tmp_path / "run")]


def test_the_verdict_beside_a_base_is_whether_each_fits(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", {"m.a.weight": torch.ones(4, 3)})
    write_adapter(tmp_path / "all/fits", pair("m.a", 4, 3))
    write_adapter(tmp_path / "all/large", pair("m.a", 8, 3))
    write_adapter(tmp_path / "all/pissa", pair("m.a", 4, 3), init_lora_weights="pissa")
    found = loratools.inspect([tmp_path / "all"], base=base)
    assert [row.verdict for row in found] == ["fits", "does not fit", "refused"]
    with pytest.raises(FormatError, match="no such file or folder"):
        loratools.inspect([tmp_path / "all"], base=tmp_path / "none")


def test_a_problem_in_the_values_is_a_verdict_only_if_they_are_read(tmp_path: Path) -> None:
    factors = {name: 0 * tensor for name, tensor in pair("m.a", 4, 3).items()}
    write_adapter(tmp_path / "untrained", factors)
    verdicts = [
        loratools.inspect([tmp_path / "untrained"], spectrum=spectrum)[0].verdict
        for spectrum in (False, True)
    ]
    assert verdicts == ["ok", "problem"]


def test_an_adapter_that_may_not_be_read_is_a_row_too(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: InputFile, *args: object, **options: object) -> None:
        raise StorageError("permission denied")

    monkeypatch.setattr(InputFile, "__init__", denied)
    assert {row.name for row in loratools.inspect([mixed]).unreadable} == {
        "checkpoint.safetensors", "cut.safetensors", "embedding.safetensors", "plain",
        "style.safetensors",
    }  # fmt: skip


def test_more_adapters_than_files_may_be_open(tmp_path: Path) -> None:
    for number in range(80):
        (tmp_path / f"{number}.safetensors").hardlink_to(KOHYA)
    with at_most_more(20):
        assert len(loratools.inspect([tmp_path]).adapters) == 80


@pytest.mark.parametrize(
    ("stated", "models", "base"),
    [
        ("", ["FLUX.1"], "FLUX.1"),
        ("flux1", ["FLUX.1", "HunyuanVideo"], "flux1 (FLUX.1 or HunyuanVideo)"),
        # The names of most trainers' LoRAs for FLUX.1 are in all of these.
        ("", ["Chroma", "FLUX.1", "FLUX.2", "HunyuanVideo"],
         "Chroma, FLUX.1, FLUX.2 or HunyuanVideo"),
        ("x", ["a", "b", "c", "d", "e"], "x"),
        ("x", [], "x"),
    ],
)  # fmt: skip
def test_a_base_is_told_with_the_few_models_that_it_may_be(
    stated: str, models: list[str], base: str
) -> None:
    assert with_models(stated, models) == base


def test_the_models_of_an_adapter_are_told_by_its_modules() -> None:
    found = loratools.inspect([KOHYA, FIXTURES / "adapters/plain"])
    assert [row.models for row in found] == [("Stable Diffusion 1 or 2",), ()]
    assert [row.ranks for row in found] == [(2, 4), (8,)]


def test_what_an_error_says_a_file_is_can_be_asked_for(mixed: Path) -> None:
    with pytest.raises(NotAnAdapterError) as raised:
        loratools.inspect(mixed / "embedding.safetensors")
    assert raised.value.what == "a textual inversion"


def test_an_object_of_the_array_has_all_fields_of_an_adapter_alone(mixed: Path) -> None:
    rows = json.loads(json.dumps(loratools.inspect([mixed]).to_json(), allow_nan=False))
    alone = loratools.inspect(mixed / "style.safetensors").to_json()
    own = {"verdict": "ok", "what": "an adapter", "message": None,
           "models": ["Stable Diffusion 1 or 2"]}  # fmt: skip
    assert rows[-1] == own | json.loads(json.dumps(alone))
    common = {*own, "path", "bytes"}
    assert [row.keys() == common for row in rows] == [True, True, True, True, False, True, False]


def test_a_row_is_found_by_its_number_and_a_name_is_answered_in_one_line(fixtures: Path) -> None:
    found = loratools.inspect([fixtures / "adapters" / "plain"])
    wrong: Any = "plain"
    with pytest.raises(
        ArgumentError, match="index: an integer or a slice is expected, not 'plain'"
    ):
        found[wrong]
    assert [row.verdict for row in found] == [found[-1].verdict]
