"""Which files an output consists of, and what config and index say of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import loratools
from loratools.files.checkpoints import open_checkpoint
from loratools.merging.arrange import arrange, corrected_configs
from loratools.merging.plan import MergeOptions
from loratools.merging.planner import plan_merge
from tests.merged import config_of, eighths, pair, write_adapter, write_base

Q = pair("layers.0.q", 4, 3)
WEIGHTS = {f"layers.{i}.{n}.weight": eighths(4, 3) for i in range(4) for n in "qk"}
HEAD = {"score.weight": eighths(2, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of eight tensors of 48 bytes, and an adapter with a new head."""
    folder = tmp_path_factory.mktemp("arrange")
    write_base(folder / "base", WEIGHTS, {"model_type": "llama"})
    write_adapter(folder / "adapter", Q | HEAD, modules_to_save=["score"])
    return folder


def planned(folder: Path) -> Any:
    base = open_checkpoint(folder / "base")
    adapter = loratools.open_adapter(folder / "adapter")
    return plan_merge(base, [adapter], [1.0], MergeOptions())


def test_files_are_the_bases_and_new_tensors_come_last(folder: Path, fixtures: Path) -> None:
    (file,) = arrange(planned(folder), None)
    assert file.name == "model.safetensors"
    assert [tensor.name for tensor in file.tensors] == [*sorted(WEIGHTS), "score.weight"]
    sharded = open_checkpoint(fixtures / "stories260k-bf16-sharded")
    adapter = loratools.open_adapter(fixtures / "adapters" / "lm-head")
    plan = plan_merge(sharded, [adapter], [1.0], MergeOptions())
    files = arrange(plan, None)
    assert [file.name for file in files] == [shard.name for shard in sharded.shards]
    assert files[-1].tensors[-1].name == "lm_head.weight"


@given(limit=st.integers(1, 600))
def test_no_file_is_larger_than_asked_unless_one_tensor_is(folder: Path, limit: int) -> None:
    plan = planned(folder)
    files = arrange(plan, limit)
    sizes = [sum(t.parameters * 4 for t in file.layout.tensors.values()) for file in files]
    for file, size in zip(files, sizes, strict=True):
        assert size <= limit or len(file.tensors) == 1
    assert [t.name for file in files for t in file.tensors] == list(plan.tensors)
    count = len(files)
    names = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    assert [file.name for file in files] == (names if count > 1 else ["model.safetensors"])


def test_index_says_where_every_tensor_is(folder: Path, tmp_path: Path) -> None:
    loratools.merge(
        folder / "base",
        folder / "adapter",
        output=tmp_path / "merged",
        write=loratools.WriteOptions(max_shard_bytes=200),
    )
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    held = {
        name: path.name
        for path in sorted((tmp_path / "merged").glob("*.safetensors"))
        for name in load_file(path)
    }
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == 8 * 48 + 24
    assert len(set(held.values())) == 3


def test_index_of_a_base_keeps_its_metadata(fixtures: Path, tmp_path: Path) -> None:
    base = fixtures / "stories260k-bf16-sharded"
    before = json.loads((base / "model.safetensors.index.json").read_text())
    loratools.merge(base, fixtures / "adapters" / "lm-head", output=tmp_path / "merged")
    after = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert set(after["weight_map"]) == {*before["weight_map"], "lm_head.weight"}
    added = 512 * 64
    expected = dict(before["metadata"])
    expected["total_size"] += 2 * added
    if "total_parameters" in expected:
        expected["total_parameters"] += added
    assert after["metadata"] == expected


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        ({}, None, None),
        ({"torch_dtype": "float32"}, "float32", None),
        ({"torch_dtype": "float32"}, "bfloat16", {"torch_dtype": "bfloat16"}),
        ({"dtype": "float32"}, "bfloat16", {"dtype": "bfloat16"}),
        ({"model_type": "x"}, "float16", {"model_type": "x", "torch_dtype": "float16"}),
        (
            {"dtype": "float32", "text_config": {"dtype": "float32"}, "vision_config": {}},
            "bfloat16",
            {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}, "vision_config": {}},
        ),
        (
            {"dtype": "float32", "text_config": {"hidden_size": 3}},
            "bfloat16",
            {"dtype": "bfloat16", "text_config": {"hidden_size": 3}},
        ),
    ],
    ids=str,
)
def test_config_says_the_dtype_where_it_said_one(
    tmp_path: Path, config: dict[str, Any], dtype: str | None, expected: dict[str, Any] | None
) -> None:
    write_base(tmp_path / "base", WEIGHTS, config)
    write_adapter(tmp_path / "adapter", Q)
    corrected = corrected_configs(planned(tmp_path), dtype).get("config.json")
    assert (None if corrected is None else json.loads(corrected)) == expected


@pytest.mark.parametrize("nested", [True, False])
def test_config_of_a_grown_vocabulary_is_corrected_where_it_says_it(
    tmp_path: Path, nested: bool
) -> None:
    inner = {"vocab_size": 6, "tie_word_embeddings": True}
    config = {"model_type": "x", "text_config": inner} if nested else {"model_type": "x", **inner}
    table = {"model.embed_tokens.weight": eighths(6, 3)}
    base = write_base(tmp_path / "base", WEIGHTS | table, config)
    grown = {"model.embed_tokens.weight": torch.ones(8, 3), "lm_head.weight": torch.zeros(8, 3)}
    saved = ["embed_tokens", "lm_head"]
    adapter = write_adapter(tmp_path / "adapter", Q | grown, modules_to_save=saved)
    loratools.merge(base, adapter, output=tmp_path / "merged")
    after = config_of(tmp_path / "merged")
    assert (after["text_config"] if nested else after)["vocab_size"] == 8
    assert after["tie_word_embeddings"] is False
    assert (after["text_config"] if nested else after)["tie_word_embeddings"] is False
    assert "vocab_size" not in after or not nested
