"""Beside packed weights plain ones are merged; packed ones keep their bytes, or are refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools import RankRule
from loratools.errors import LoratoolsError, UnsupportedError
from loratools.io.file import InputFile
from loratools.merging.execute import WriteOptions
from loratools.merging.plan import MergeOptions
from loratools.merging.report import MergeReport
from tests.merged import eighths, pair, update, write_adapter
from tests.packed import (
    COLUMNS,
    FORMATS,
    LAYER,
    PACKED,
    PLAIN,
    ROWS,
    Format,
    Tensors,
    write_packed,
    write_tensors,
)

UPDATE = pair(PLAIN, ROWS, COLUMNS)
EACH_FORMAT = pytest.mark.parametrize("packed", FORMATS.values(), ids=FORMATS)
#: One of each way to name codes: under other names, inside the weight's, and under it.
SOME = ("GPTQ", "bitsandbytes nf4 as bfloat16", "NVFP4 of ComfyUI", "MXFP4 of gpt-oss")
SOME_FORMATS = pytest.mark.parametrize("packed", [FORMATS[name] for name in SOME], ids=SOME)


def contents(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of every tensor in the files of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = InputFile(path)
        for t in file.read_header().tensors:
            found[t.name] = (t.dtype, t.shape, file.read(t.begin, t.nbytes))
    return found


def write_flattened(path: Path, module: str) -> Path:
    """An adapter in kohya's format, whose names have `_` for each dot."""
    flattened = f"lora_unet_{module.replace('.', '_')}"
    factors = {
        f"{flattened}.lora_down.weight": eighths(2, COLUMNS),
        f"{flattened}.lora_up.weight": eighths(ROWS, 2),
        f"{flattened}.alpha": torch.tensor(1.0),
    }
    save_file(factors, path)
    return path


def merge_plain(tmp_path: Path, packed: Format, **arguments: object) -> MergeReport:
    base = write_packed(tmp_path / "base", packed)
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    return loratools.merge(base, adapter, output=tmp_path / "merged", **arguments)  # type: ignore[arg-type]


def assert_left_packed(tmp_path: Path, packed: Format, report: MergeReport) -> None:
    before, after = contents(tmp_path / "base"), contents(tmp_path / "merged")
    assert packed.stored
    assert {name: after[name] for name in packed.stored} == {
        name: before[name] for name in packed.stored
    }
    count = {"format": packed.said, "weights": 1, "tensors": len(packed.stored)}
    assert report.to_json()["packed"] == [count]


@EACH_FORMAT
def test_plain_weights_are_merged_beside_packed_ones(tmp_path: Path, packed: Format) -> None:
    report = merge_plain(tmp_path, packed)
    assert_left_packed(tmp_path, packed, report)
    before, after = contents(tmp_path / "base"), contents(tmp_path / "merged")
    assert [name for name in before if after[name] != before[name]] == [f"{PLAIN}.weight"]
    assert list(after) == list(before)


def test_the_plain_weight_is_the_rounded_sum(tmp_path: Path) -> None:
    write_packed(tmp_path / "base", FORMATS["GPTQ"])
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    loratools.merge(tmp_path / "base", adapter, output=tmp_path / "merged")
    before, after = (
        load_file(tmp_path / name / "model.safetensors")[f"{PLAIN}.weight"]
        for name in ("base", "merged")
    )
    assert torch.equal(after, (before.double() + update(UPDATE).double()).bfloat16())


@EACH_FORMAT
def test_packed_weights_and_their_scales_keep_their_dtypes(tmp_path: Path, packed: Format) -> None:
    report = merge_plain(tmp_path, packed, options=MergeOptions(dtype="float16"))
    assert_left_packed(tmp_path, packed, report)
    after = contents(tmp_path / "merged")
    assert {after[f"{PLAIN}.weight"][0], after["model.norm.weight"][0]} == {"F16"}


@EACH_FORMAT
def test_an_update_of_a_packed_weight_is_refused_by_name(tmp_path: Path, packed: Format) -> None:
    base = write_packed(tmp_path / "base", packed)
    module = packed.weight.removesuffix(".weight")
    touched = pair(module, ROWS, COLUMNS)
    fields = {}
    if module == packed.weight:
        touched, fields = {module: eighths(2, COLUMNS, ROWS)}, {"modules_to_save": ["experts"]}
    adapter = write_adapter(tmp_path / "adapter", UPDATE | touched, **fields)
    with pytest.raises(UnsupportedError) as caught:
        loratools.merge(base, adapter, output=tmp_path / "merged")
    message = str(caught.value)
    assert f"{packed.weight} is stored packed ({packed.said}" in message
    assert "merge into the original float weights, then quantise the result" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


@pytest.mark.parametrize("allow_unmatched", [False, True])
def test_an_update_of_a_packed_weight_is_left_out_only_by_skip(
    tmp_path: Path, allow_unmatched: bool
) -> None:
    write_packed(tmp_path / "base", FORMATS["GPTQ"])
    adapter = write_adapter(tmp_path / "adapter", UPDATE | pair(PACKED, ROWS, COLUMNS))
    arguments = tmp_path / "base", adapter
    options = MergeOptions(allow_unmatched=allow_unmatched)
    with pytest.raises(UnsupportedError, match="is stored packed"):
        loratools.merge(*arguments, output=None, options=options)
    options = MergeOptions(allow_unmatched=allow_unmatched, skip=(f"{PACKED}.weight",))
    report = loratools.merge(*arguments, output=tmp_path / "merged", options=options)
    assert len(report.plan.accounting.skipped) == 2
    assert_left_packed(tmp_path, FORMATS["GPTQ"], report)


@pytest.mark.parametrize(
    "target", ["layers.0.self_attn.q_proj", "base.model.layers.0.self_attn.q_proj"]
)
@pytest.mark.parametrize("format_", ["GPTQ", "fp8 with block scales"])
def test_a_packed_weight_is_known_by_other_names(tmp_path: Path, target: str, format_: str) -> None:
    base = write_packed(tmp_path / "base", FORMATS[format_])
    adapter = write_adapter(tmp_path / "adapter", pair(target, ROWS, COLUMNS))
    with pytest.raises(UnsupportedError, match=rf"{PACKED}\.weight is stored packed"):
        loratools.merge(base, adapter, output=None)


def test_a_packed_weight_is_known_by_its_flattened_name(tmp_path: Path) -> None:
    base = write_packed(tmp_path / "base", FORMATS["bitsandbytes nf4"])
    adapter = write_flattened(tmp_path / "kohya.safetensors", PACKED)
    with pytest.raises(UnsupportedError, match=rf"{PACKED}\.weight is stored packed"):
        loratools.merge(base, adapter, output=None)


def test_a_packed_weight_comes_before_a_plain_one_with_a_similar_name(tmp_path: Path) -> None:
    """The packed language model, and not the vision tower whose layers have the same shapes."""
    shapes = {f"language_model.{name}": value for name, value in FORMATS["GPTQ"].stored.items()}
    other = f"vision.{PACKED}.weight"
    tensors = {**shapes, other: ("BF16", (ROWS, COLUMNS))}
    write_tensors(tmp_path / "base" / "model.safetensors", tensors)
    adapter = write_adapter(tmp_path / "adapter", pair(PACKED, ROWS, COLUMNS))
    with pytest.raises(LoratoolsError, match=r"stored packed|several base tensors"):
        loratools.merge(tmp_path / "base", adapter, output=None)


@pytest.mark.parametrize("stored", [True, False])
def test_a_head_tied_to_a_packed_embedding_is_packed(tmp_path: Path, stored: bool) -> None:
    ends = {"model.embed_tokens.weight": ("F8_E4M3", (ROWS, COLUMNS))}
    if stored:
        ends["lm_head.weight"] = ("BF16", (ROWS, COLUMNS))
    base = tmp_path / "base"
    write_tensors(base / "model.safetensors", ends)
    (base / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    adapter = write_adapter(tmp_path / "adapter", pair("lm_head", ROWS, COLUMNS))
    with pytest.raises(UnsupportedError, match=r"lm_head\.weight is stored packed"):
        loratools.merge(base, adapter, output=None)


def test_an_embedding_tied_to_a_packed_head_is_not_untied(tmp_path: Path) -> None:
    ends = {
        "model.embed_tokens.weight": ("BF16", (ROWS, COLUMNS)),
        "lm_head.qweight": ("I32", (4, ROWS)),
        "lm_head.scales": ("F16", (2, ROWS)),
    }
    base = tmp_path / "base"
    write_tensors(base / "model.safetensors", ends)
    (base / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    adapter = write_adapter(tmp_path / "adapter", pair("model.embed_tokens", ROWS, COLUMNS))
    with pytest.raises(UnsupportedError, match=r"embed_tokens\.weight is stored packed \(GPTQ or"):
        loratools.merge(base, adapter, output=None)


def test_the_tied_ends_of_a_model_with_packed_layers_are_merged(tmp_path: Path) -> None:
    tensors = FORMATS["GPTQ"].stored | {"model.embed_tokens.weight": ("BF16", (ROWS, COLUMNS))}
    base = tmp_path / "base"
    write_tensors(base / "model.safetensors", tensors)
    (base / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    adapter = write_adapter(tmp_path / "adapter", pair("lm_head", ROWS, COLUMNS))
    report = loratools.merge(base, adapter, output=tmp_path / "merged")
    assert_left_packed(tmp_path, FORMATS["GPTQ"], report)
    assert list(contents(tmp_path / "merged")) == [*tensors, "lm_head.weight"]


@SOME_FORMATS
def test_packed_weights_go_into_other_files_and_overlays_as_they_are(
    tmp_path: Path, packed: Format
) -> None:
    report = merge_plain(tmp_path, packed, write=WriteOptions(max_shard_bytes=1000))
    assert_left_packed(tmp_path, packed, report)
    assert len(report.files) > 2
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    overlay = tmp_path / "overlay"
    loratools.merge(base, adapter, output=overlay, write=WriteOptions(only_changed=True))
    assert list(contents(overlay)) == [f"{PLAIN}.weight"]
    loratools.merge(f"{base}+{overlay}", [], output=tmp_path / "whole")
    loratools.merge(base, adapter, output=tmp_path / "direct")
    assert contents(tmp_path / "whole") == contents(tmp_path / "direct")


@pytest.mark.parametrize("max_shard_bytes", [None, 2000])
def test_each_file_keeps_the_notes_in_its_header(
    tmp_path: Path, max_shard_bytes: int | None
) -> None:
    """torchao notes in a header how each tensor of the file was packed."""
    base = tmp_path / "base"
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    plain: Tensors = {f"{PLAIN}.weight": ("BF16", (ROWS, COLUMNS))}
    files = FORMATS["torchao"].stored, plain
    weight_map: dict[str, str] = {}
    for number, (name, tensors) in enumerate(zip(names, files, strict=True)):
        write_tensors(base / name, tensors, {"format": "pt", f"tensor {number}": "noted"})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    write = WriteOptions(max_shard_bytes=max_shard_bytes)
    report = loratools.merge(base, adapter, output=tmp_path / "merged", write=write)
    assert_left_packed(tmp_path, FORMATS["torchao"], report)
    headers = [InputFile(tmp_path / "merged" / name).read_header() for name in report.files]
    noted = [{"tensor 0"}, {"tensor 1"}]
    if max_shard_bytes is not None:
        noted = [{"tensor 0", "tensor 1"}] * len(headers)
    assert [header.metadata.keys() - {"format"} for header in headers] == noted


def test_notes_in_headers_that_differ_are_not_put_into_other_files(tmp_path: Path) -> None:
    base = tmp_path / "base"
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, tensor in zip(names, (PACKED, PLAIN), strict=True):
        tensors = {f"{tensor}.weight": ("BF16", (ROWS, COLUMNS))}
        write_tensors(base / name, tensors, {"tensor_names": tensor})
    weight_map = {f"{PACKED}.weight": names[0], f"{PLAIN}.weight": names[1]}
    index = {"metadata": {}, "weight_map": weight_map}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    with pytest.raises(UnsupportedError, match="different values of 'tensor_names'"):
        loratools.merge(
            base, adapter, output=tmp_path / "merged", write=WriteOptions(max_shard_bytes=2000)
        )
    assert not (tmp_path / "merged").exists()


@SOME_FORMATS
def test_an_adapter_beside_plain_weights_is_swapped_in_and_out(
    tmp_path: Path, packed: Format
) -> None:
    base = write_packed(tmp_path / "base", packed)
    before = contents(base)
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    report = loratools.swap(base, adapter)
    after = contents(base)
    assert [name for name in before if after[name] != before[name]] == [f"{PLAIN}.weight"]
    assert report.merge is not None
    assert report.merge.to_json()["packed"][0]["format"] == packed.said
    loratools.swap(base, [])
    assert contents(base) == before


@SOME_FORMATS
def test_an_adapter_is_extracted_from_plain_weights(tmp_path: Path, packed: Format) -> None:
    merge_plain(tmp_path, packed)
    report = loratools.svd_extract(
        tmp_path / "merged", tmp_path / "base", output=tmp_path / "out", check=True
    )
    assert list(report.plan.factored) == [f"{PLAIN}.weight"]
    assert f"packed in {packed.said}, the same in both models: 1 weight" in report.notes


@EACH_FORMAT
def test_a_packed_weight_that_differs_is_not_extracted(tmp_path: Path, packed: Format) -> None:
    merge_plain(tmp_path, packed)
    for changed in packed.stored:
        _flip_last_byte(tmp_path / "merged" / "model.safetensors", changed)
        with pytest.raises(UnsupportedError) as caught:
            loratools.svd_extract(tmp_path / "merged", tmp_path / "base", output=tmp_path / "out")
        assert f"has changed and is stored packed ({packed.said}" in str(caught.value)
        _flip_last_byte(tmp_path / "merged" / "model.safetensors", changed)
    assert not (tmp_path / "out").exists()


@SOME_FORMATS
@pytest.mark.parametrize("is_tuned_packed", [False, True])
def test_a_weight_that_one_model_has_packed_is_not_extracted(
    tmp_path: Path, packed: Format, is_tuned_packed: bool
) -> None:
    one = write_packed(tmp_path / "packed", packed)
    plain = {packed.weight.removeprefix(LAYER): ("BF16", (ROWS, COLUMNS))}
    other = write_packed(tmp_path / "plain", Format("", plain, packed.weight))
    tuned, base = (one, other) if is_tuned_packed else (other, one)
    with pytest.raises(LoratoolsError, match=rf"stored packed \({packed.said}"):
        loratools.svd_extract(tuned, base, dry_run=True)


def _flip_last_byte(path: Path, name: str) -> None:
    place = next(t for t in InputFile(path).read_header().tensors if t.name == name)
    with path.open("r+b") as file:
        file.seek(place.end - 1)
        last = file.read(1)[0]
        file.seek(place.end - 1)
        file.write(bytes([last ^ 1]))


@SOME_FORMATS
def test_inspect_counts_packed_weights_by_their_names(tmp_path: Path, packed: Format) -> None:
    base = write_packed(tmp_path / "base", packed)
    adapter = write_adapter(tmp_path / "adapter", UPDATE)
    coverage = loratools.inspect(adapter, base=base).coverage
    assert coverage is not None
    assert (coverage.touched, coverage.matrices, coverage.refusal) == (1, 2, None)
    assert list(coverage.untouched) == [packed.weight.replace(".0.", ".*.")]
    assert coverage.packed == {packed.said: 1}


@pytest.mark.parametrize("format_", ["GPTQ", "fp8 with block scales"])
def test_a_dora_of_a_packed_weight_is_not_made_additive(tmp_path: Path, format_: str) -> None:
    base = write_packed(tmp_path / "base", FORMATS[format_])
    magnitude = {f"{PACKED}.lora_magnitude_vector": torch.ones(ROWS)}
    adapter = write_adapter(
        tmp_path / "adapter", pair(PACKED, ROWS, COLUMNS) | magnitude, use_dora=True
    )
    with pytest.raises(UnsupportedError, match="is stored packed"):
        loratools.combine([adapter, adapter], output=None, base=base, rule=RankRule(rank=1))


def test_convert_knows_a_packed_weight_by_its_name(tmp_path: Path) -> None:
    """A flattened name that nobody knows tells its words only together with the base's names."""
    module = "model.odd_blocks.0.new_part.odd_proj"
    codes = {
        f"{module}.weight._data": ("I8", (ROWS, COLUMNS)),
        f"{module}.weight._scale": ("F16", (ROWS, 1)),
    }
    write_tensors(tmp_path / "base" / "model.safetensors", codes)
    adapter = write_flattened(tmp_path / "kohya.safetensors", module)
    loratools.convert(adapter, output=tmp_path / "out", to="peft", base=tmp_path / "base")
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {key.partition(".lora_")[0] for key in written} == {f"base_model.model.{module}"}


def test_rows_of_a_packed_embedding_are_refused(tmp_path: Path) -> None:
    embedding = "model.embed_tokens"
    tensors = {f"{embedding}.weight": ("F8_E4M3", (ROWS, COLUMNS))}
    write_tensors(tmp_path / "base" / "model.safetensors", tensors)
    rows = {f"{embedding}.trainable_tokens_delta": eighths(1, COLUMNS)}
    adapter = write_adapter(tmp_path / "adapter", rows, trainable_token_indices={embedding: [3]})
    with pytest.raises(UnsupportedError, match=r"embed_tokens\.weight is stored packed"):
        loratools.merge(tmp_path / "base", adapter, output=None)


def test_a_vocabulary_with_a_packed_head_does_not_grow(tmp_path: Path) -> None:
    """The head's tensors have names of their own, and need not have a row for each token."""
    tensors = {
        "model.embed_tokens.weight": ("BF16", (ROWS, COLUMNS)),
        "lm_head.qweight": ("I32", (4, ROWS)),
        "lm_head.scales": ("F16", (2, ROWS)),
    }
    write_tensors(tmp_path / "base" / "model.safetensors", tensors)
    grown = {"model.embed_tokens.weight": eighths(ROWS + 8, COLUMNS)}
    adapter = write_adapter(tmp_path / "adapter", UPDATE | grown, modules_to_save=["embed_tokens"])
    options = MergeOptions(skip=(f"{PLAIN}.*",))
    with pytest.raises(UnsupportedError, match=r"lm_head\.weight: is stored packed"):
        loratools.merge(tmp_path / "base", adapter, output=None, options=options)


def test_each_packed_weight_that_an_adapter_changes_is_counted_once(tmp_path: Path) -> None:
    names = [PACKED, PACKED.replace("q_proj", "k_proj"), PACKED.replace("q_proj", "v_proj")]
    tensors = {f"{name}.weight": ("F8_E4M3", (ROWS, COLUMNS)) for name in names}
    write_tensors(tmp_path / "base" / "model.safetensors", tensors)
    factors = pair(names[0], ROWS, COLUMNS) | pair(names[1], ROWS, COLUMNS)
    adapter = write_adapter(tmp_path / "adapter", factors | pair(names[2], ROWS, COLUMNS))
    with pytest.raises(UnsupportedError, match=r"k_proj\.weight .* like 2 more that the adapter"):
        loratools.merge(tmp_path / "base", adapter, output=None)


def test_a_new_tensor_has_the_dtype_of_most_plain_bytes(tmp_path: Path) -> None:
    """Scales may have more bytes in another dtype."""
    tensors = {
        f"{PLAIN}.weight": ("BF16", (ROWS, COLUMNS)),
        f"{PACKED}.weight": ("F8_E4M3", (ROWS, COLUMNS)),
        f"{PACKED}.weight_scale": ("F32", (ROWS, COLUMNS)),
    }
    write_tensors(tmp_path / "base" / "model.safetensors", tensors)
    head = {"score.weight": eighths(2, COLUMNS)}
    adapter = write_adapter(tmp_path / "adapter", UPDATE | head, modules_to_save=["score"])
    loratools.merge(tmp_path / "base", adapter, output=tmp_path / "merged")
    assert contents(tmp_path / "merged")["score.weight"][0] == "BF16"


def test_an_integer_tensor_is_not_changed(tmp_path: Path) -> None:
    tensors = {"model.steps": ("I64", (ROWS, COLUMNS)), f"{PLAIN}.weight": ("BF16", (8, 8))}
    write_tensors(tmp_path / "base" / "model.safetensors", tensors)
    adapter = write_adapter(
        tmp_path / "adapter", {"model.steps": eighths(ROWS, COLUMNS)}, modules_to_save=["model"]
    )
    with pytest.raises(LoratoolsError, match=r"model\.steps is F32, and I64 in the base"):
        loratools.merge(tmp_path / "base", adapter, output=None)


def test_a_part_of_a_packed_fused_weight_is_refused_as_packed(tmp_path: Path) -> None:
    fused = f"{LAYER}.self_attn.qkv_proj"
    tensors = {f"{fused}.qweight": ("I32", (4, 96)), f"{fused}.scales": ("F16", (1, 96))}
    base = write_tensors(
        tmp_path / "base", {**tensors, f"{PLAIN}.weight": ("F32", (ROWS, COLUMNS))}
    )
    adapter = write_adapter(tmp_path / "adapter", pair(PACKED, ROWS, COLUMNS))
    with pytest.raises(UnsupportedError, match=rf"{fused}\.weight is stored packed \(GPTQ"):
        loratools.merge(base, adapter, output=tmp_path / "merged.safetensors")
    both = write_adapter(tmp_path / "both", pair(PACKED, ROWS, COLUMNS) | UPDATE)
    options = MergeOptions(skip=(f"{fused}.weight",))
    report = loratools.merge(base, both, output=tmp_path / "merged.safetensors", options=options)
    assert [tensor.name for tensor in report.plan.changed] == [f"{PLAIN}.weight"]
