"""Overlays: the changed tensors of a merge, which with the base are the whole merge."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

import loratools
from loratools import ExtractRun
from loratools.errors import (
    FormatError,
    LoratoolsError,
    MatchError,
    OptionError,
    OutputError,
    StorageError,
    UnsupportedError,
)
from loratools.files.opening import open_base
from loratools.io.file import InputFile
from loratools.merging.execute import WriteOptions
from loratools.merging.plan import MergeOptions
from tests.merged import config_of, eighths, pair, read_json, write_adapter, write_base

BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
QUERY = "encoder.layer.0.attention.self.query"
BODY = {f"{QUERY}.weight": eighths(3, 3), "pooler.dense.weight": eighths(3, 3)}
HEAD = {"classifier.weight": eighths(2, 3), "classifier.bias": eighths(2)}


def contents(folder: Path) -> dict[str, bytes]:
    assert folder.exists()
    files = [folder] if folder.is_file() else filter(Path.is_file, folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def overlay(
    base: Path | str, adapters: Sequence[Path], output: Path, options: MergeOptions, **write: Any
) -> Path:
    write_options = WriteOptions(only_changed=True, **write)
    loratools.merge(base, adapters, output=output, options=options, write=write_options)
    return output


def assert_is_the_merge(
    base: Path | str, adapters: Sequence[Path], folder: Path, options: MergeOptions | None = None
) -> Path:
    """Assert that base and overlay make the files of the merge; return the overlay."""
    options = options or MergeOptions()
    suffix = ".safetensors" if str(base).endswith(".safetensors") else ""
    full, made = folder / f"full{suffix}", folder / f"made{suffix}"
    loratools.merge(base, adapters, output=full, options=options)
    changed = overlay(base, adapters, folder / "changed", options)
    loratools.merge(f"{base}+{changed}", [], output=made)
    assert contents(made) == contents(full)
    return changed


def stories(fixtures: Path) -> list[Path]:
    configs = sorted(fixtures.glob("adapters/*/adapter_config.json"))
    return [c.parent for c in configs if not c.parent.name.startswith("gpt2")]


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("stories260k", MergeOptions()),
        ("stories260k-bf16-sharded", MergeOptions(dtype="float16")),
        ("tiny-gpt2", MergeOptions()),
    ],
)
def test_base_and_overlay_are_the_whole_merge(
    base: str, options: MergeOptions, fixtures: Path, tmp_path: Path
) -> None:
    is_gpt2 = base == "tiny-gpt2"
    adapters = sorted(fixtures.glob("adapters/gpt2*")) if is_gpt2 else stories(fixtures)
    assert adapters
    for adapter in adapters:
        folder = tmp_path / adapter.name
        folder.mkdir()
        assert_is_the_merge(fixtures / base, [adapter], folder, options)


def test_base_and_overlay_of_several_adapters_are_the_whole_merge(
    fixtures: Path, tmp_path: Path
) -> None:
    adapters = [fixtures / "adapters" / name for name in ("combine-r4", "lm-head", "plain")]
    changed = assert_is_the_merge(fixtures / "stories260k", adapters, tmp_path)
    assert config_of(changed / "beside")["tie_word_embeddings"] is False


def test_overlay_of_a_single_file_is_a_folder(fixtures: Path, tmp_path: Path) -> None:
    base = fixtures / "stories260k/model.safetensors"
    adapter = fixtures / "adapters/plain"
    changed = assert_is_the_merge(base, [adapter], tmp_path)
    assert set(contents(changed)) == {"overlay.json", "overlay.safetensors"}
    with pytest.raises(OutputError, match="the output is a folder"):
        overlay(base, [adapter], tmp_path / "x.safetensors", MergeOptions())
    with pytest.raises(MatchError, match="is a folder and not a single file"):
        loratools.merge(f"{base.parent}+{changed}", [], output=tmp_path / "no")


def classifier(folder: Path) -> tuple[Path, Path]:
    base = write_base(folder / "base", BODY, BERT)
    tensors = pair(f"bert.{QUERY}", 3, 3) | HEAD
    adapter = write_adapter(
        folder / "adapter", tensors, task_type="SEQ_CLS", modules_to_save=["classifier"]
    )
    return base, adapter


def test_renamed_tensors_stay_in_the_base(tmp_path: Path) -> None:
    base, adapter = classifier(tmp_path)
    changed = assert_is_the_merge(base, [adapter], tmp_path)
    manifest = read_json(changed / "overlay.json")
    assert manifest["renamed"] == {
        f"bert.{name}": name for name in ("pooler.dense.weight", f"{QUERY}.weight")
    }
    assert set(manifest["tensors"]) == {f"bert.{QUERY}.weight", *HEAD}


def test_a_replaced_tokenizer_is_whole_and_alone(fixtures: Path, tmp_path: Path) -> None:
    base = shutil.copytree(fixtures / "stories260k", tmp_path / "base")
    (base / "tokenizer.model").write_bytes(b"of the base")
    adapter = fixtures / "adapters/embedding-vocab"
    changed = assert_is_the_merge(base, [adapter], tmp_path)
    assert (changed / "beside/tokenizer.json").exists()
    assert (tmp_path / "full/generation_config.json").exists()
    assert not (tmp_path / "made/tokenizer.model").exists()


def test_a_changed_template_brings_the_whole_tokenizer(fixtures: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(fixtures / "adapters/plain", tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    changed = assert_is_the_merge(fixtures / "stories260k", [adapter], tmp_path)
    assert {"tokenizer.json", "chat_template.jinja"} <= set(contents(changed / "beside"))


@pytest.mark.parametrize("size", [1, 20_000, 10**9])
def test_shards_of_an_overlay_are_no_larger_than_asked(
    size: int, fixtures: Path, tmp_path: Path
) -> None:
    base, adapter = fixtures / "stories260k-bf16-sharded", fixtures / "adapters/plain"
    options = MergeOptions(dtype="float16")
    changed = overlay(base, [adapter], tmp_path / "changed", options, max_shard_bytes=size)
    for path in changed.glob("*.safetensors"):
        sizes = [tensor.nbytes for tensor in InputFile(path).read_header().tensors]
        assert len(sizes) == 1 or sum(sizes) <= size
    write = WriteOptions(max_shard_bytes=size)
    loratools.merge(base, adapter, output=tmp_path / "full", options=options, write=write)
    loratools.merge(f"{base}+{changed}", [], output=tmp_path / "made", write=write)
    assert contents(tmp_path / "made") == contents(tmp_path / "full")


@settings(max_examples=15)
@given(
    steps=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=3),
    shards=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    size=st.sampled_from([None, 1, 200]),
)
def test_overlays_of_any_tensors_of_any_shards_make_the_merges_one_after_the_other(
    steps: list[set[int]], shards: list[int], size: int | None
) -> None:
    """A base of six matrices in up to three files; each step changes some of them."""
    with TemporaryDirectory() as path:
        folder = Path(path)
        base = folder / "base"
        base.mkdir()
        files = {
            f"m.{i}.weight": f"model-0000{s}-of-00003.safetensors" for i, s in enumerate(shards)
        }
        for number, file in enumerate(sorted(set(files.values()))):
            held = [name for name, where in files.items() if where == file]
            values = {name: eighths(4, 4) + number for name in held}
            save_file(values, base / file, {"format": "pt", "of": file})
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
        overlaid, whole = str(base), base
        for number, step in enumerate(steps):
            tensors: dict[str, Tensor] = {}
            for module in step:
                tensors |= pair(f"m.{module}", 4, 4, seed=number)
            adapter = write_adapter(folder / f"adapter-{number}", tensors)
            made = folder / f"overlay-{number}"
            overlay(overlaid, [adapter], made, MergeOptions(), max_shard_bytes=size)
            assert len(list(made.glob("*.safetensors"))) <= 6
            loratools.merge(whole, adapter, output=folder / f"whole-{number}")
            overlaid, whole = f"{overlaid}+{made}", folder / f"whole-{number}"
        loratools.merge(overlaid, [], output=folder / "made")
        assert contents(folder / "made") == contents(whole)


@pytest.fixture
def first(fixtures: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A base, and an overlay on it."""
    base, adapter = fixtures / "stories260k-bf16-sharded", fixtures / "adapters/combine-r4"
    return base, overlay(base, [adapter], tmp_path / "first", MergeOptions())


def test_overlays_are_read_in_the_order_in_which_they_were_made(
    first: tuple[Path, Path], fixtures: Path, tmp_path: Path
) -> None:
    base, one = first
    adapter = fixtures / "adapters/embedding-vocab"
    other = overlay(f"{base}+{one}", [adapter], tmp_path / "second", MergeOptions())
    loratools.merge(f"{base}+{one}", [], output=tmp_path / "one")
    loratools.merge(tmp_path / "one", adapter, output=tmp_path / "full")
    for number, name in enumerate([f"{base}+{one}+{other}", f"{tmp_path / 'one'}+{other}"]):
        loratools.merge(name, [], output=tmp_path / f"made-{number}")
        assert contents(tmp_path / f"made-{number}") == contents(tmp_path / "full")
    for wrong in (f"{base}+{other}", f"{base}+{other}+{one}", f"{base}+{one}+{one}"):
        with pytest.raises(MatchError, match="was made for another base, "):
            open_base(wrong)


def test_a_base_with_the_same_header_and_other_values_is_refused(
    first: tuple[Path, Path], fixtures: Path, tmp_path: Path
) -> None:
    base, changed = first
    loratools.merge(base, fixtures / "adapters/plain", output=tmp_path / "tuned")
    with pytest.raises(MatchError, match="tuned has other values in model-00001-of-00002"):
        loratools.merge(f"{tmp_path / 'tuned'}+{changed}", [], output=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    open_base(f"{tmp_path / 'tuned'}+{changed}", headers=True)  # only headers are compared


def test_a_base_with_another_header_or_config_is_refused(fixtures: Path, tmp_path: Path) -> None:
    base = shutil.copytree(fixtures / "stories260k", tmp_path / "base")
    changed = overlay(base, [fixtures / "adapters/lm-head"], tmp_path / "changed", MergeOptions())
    half, split = fixtures / "stories260k-bf16-sharded", tmp_path / "split"
    loratools.merge(
        base, fixtures / "adapters/plain", output=split, write=WriteOptions(max_shard_bytes=10**6)
    )
    single = tmp_path / "half"
    loratools.merge(
        half, fixtures / "adapters/plain", output=single, write=WriteOptions(max_shard_bytes=10**9)
    )
    with pytest.raises(MatchError, match="has 2 weight files and not 1"):
        open_base(f"{split}+{changed}")
    with pytest.raises(
        MatchError, match=r"other names, dtypes, shapes or metadata in model\.safet"
    ):
        open_base(f"{single}+{changed}")
    (base / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(MatchError, match=r"another config\.json"):
        open_base(f"{base}+{changed}")


def test_an_overlay_alone_is_neither_a_base_nor_an_adapter(
    first: tuple[Path, Path], tmp_path: Path
) -> None:
    base, changed = first
    (changed / "config.json").write_text("{}")  # as if somebody had put it there
    for file in ("", "overlay.json", "overlay-00001-of-00002.safetensors"):
        with pytest.raises(LoratoolsError, match=r"overlay|one of 2 parts"):
            open_base(changed / file)
        with pytest.raises(LoratoolsError, match=r"overlay|one of 2 parts"):
            loratools.inspect(changed / file)
    renamed = shutil.copy(
        changed / "overlay-00001-of-00002.safetensors", tmp_path / "x.safetensors"
    )
    for function in (open_base, loratools.inspect):
        with pytest.raises(UnsupportedError, match=r"x\.safetensors: a file of an overlay"):
            function(renamed)
    with pytest.raises(FormatError, match=r"not an overlay: it has no overlay\.json"):
        open_base(f"{base}+{base}")
    with pytest.raises(FormatError, match="not a folder, which an overlay is"):
        open_base(f"{base}+{changed}/overlay.json")


def test_a_path_with_a_plus_in_it_is_that_path(first: tuple[Path, Path], tmp_path: Path) -> None:
    base, changed = first
    odd = tmp_path / "b+c"
    shutil.copytree(base, odd)
    plus = changed.rename(tmp_path / "c+d+e")
    assert open_base(odd).where == str(odd)
    assert open_base(f"{odd}+{plus}").where == f"{odd}+{plus}"
    with pytest.raises(FormatError, match="gone: no such file or folder"):
        open_base(f"{odd}+{tmp_path / 'gone'}")


def test_without_an_adapter_only_overlays_are_merged(
    first: tuple[Path, Path], tmp_path: Path
) -> None:
    base, changed = first
    with pytest.raises(OptionError, match="no adapter to merge"):
        loratools.merge(base, [], output=tmp_path / "no")
    with pytest.raises(OptionError, match="nothing changes without an adapter"):
        overlay(f"{base}+{changed}", [], tmp_path / "no", MergeOptions())


def test_an_overlay_is_an_input_that_no_output_replaces(first: tuple[Path, Path]) -> None:
    base, changed = first
    write, run = WriteOptions(overwrite=True), ExtractRun(overwrite=True)
    for output in (changed, changed / "inside"):
        with pytest.raises(OutputError, match="the input"):
            loratools.merge(f"{base}+{changed}", [], output=output, write=write)
        with pytest.raises(OutputError, match="the input"):
            loratools.svd_extract(f"{base}+{changed}", base, output=output, run=run)


@pytest.mark.parametrize("name", ["overlay.json", "overlay-00001-of-00002.safetensors"])
def test_an_overlay_that_changes_during_a_merge_is_noticed(
    name: str, first: tuple[Path, Path], tmp_path: Path
) -> None:
    base, changed = first
    file = changed / name

    def rewrite(done: int, total: int) -> None:
        os.utime(file, ns=(0, 0))

    with pytest.raises(StorageError, match=f"{re.escape(str(file))}: changed while it was read"):
        loratools.merge(
            f"{base}+{changed}", [], output=tmp_path / "no", write=WriteOptions(progress=rewrite)
        )
    assert not (tmp_path / "no").exists()


def test_every_reader_of_a_base_takes_overlays(
    first: tuple[Path, Path], fixtures: Path, tmp_path: Path
) -> None:
    base, changed = first
    both, tuned, dora = f"{base}+{changed}", tmp_path / "tuned", fixtures / "adapters/dora"
    loratools.merge(both, [], output=tuned)
    rule = loratools.RankRule(rank=2)
    found = []
    for number, name in enumerate([both, str(tuned)]):
        found.append(loratools.inspect(dora, base=name).to_json()["base"])
        loratools.combine([dora, dora], output=tmp_path / f"combine{number}", rule=rule, base=name)
        loratools.svd_extract(name, base, output=tmp_path / f"extract{number}", rule=rule)
    assert [coverage.pop("base") for coverage in found] == [both, str(tuned)]
    assert found[0] == found[1]
    assert contents(tmp_path / "combine0") == contents(tmp_path / "combine1")
    assert contents(tmp_path / "extract0") == contents(tmp_path / "extract1")


def test_svd_extract_takes_the_tokenizer_of_an_overlay(fixtures: Path, tmp_path: Path) -> None:
    base, adapter = fixtures / "stories260k", fixtures / "adapters/embedding-vocab"
    changed = overlay(base, [adapter], tmp_path / "changed", MergeOptions())
    rule = loratools.RankRule(rank=1)
    loratools.svd_extract(f"{base}+{changed}", base, output=tmp_path / "extracted", rule=rule)
    brought = (tmp_path / "extracted/tokenizer.json").read_bytes()
    assert brought == (changed / "beside/tokenizer.json").read_bytes()
    assert brought != (base / "tokenizer.json").read_bytes()
