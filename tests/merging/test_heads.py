"""Heads of classifiers: what the config then says, and which tensors are one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, equal

import loratools
from loratools.merging.report import MergeReport
from tests.merged import config_of, eighths, merged, pair, write_adapter, write_base

BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
QUERY = "encoder.layer.0.attention.self.query"
POOLER = {"pooler.dense.weight": eighths(3, 3), "pooler.dense.bias": eighths(3)}
BODY = {f"{QUERY}.weight": eighths(3, 3), **POOLER}
PREFIXED = {f"bert.{name}": tensor for name, tensor in BODY.items()}
LORA = pair(f"bert.{QUERY}", 3, 3)


def head(name: str, labels: int, *, bias: bool = True) -> dict[str, Tensor]:
    tensors = {f"{name}.weight": eighths(labels, 3)}
    return {f"{name}.bias": eighths(labels), **tensors} if bias else tensors


def merge(
    folder: Path,
    tensors: dict[str, Tensor],
    config: dict[str, Any] | None = None,
    base: dict[str, Tensor] = PREFIXED,
    **adapter: Any,
) -> tuple[dict[str, Any], dict[str, Tensor], MergeReport]:
    """The output's config and tensors, and the report."""
    base_folder = write_base(folder / "base", base, BERT if config is None else config)
    written = write_adapter(folder / "adapter", LORA | tensors, **adapter)
    found, report = merged(base_folder, written)
    return config_of(folder / "merged"), found, report


@pytest.mark.parametrize("saved", [["classifier", "score"], ["classifier"], None])
@pytest.mark.parametrize(
    ("task", "labels", "architecture"),
    [
        ("SEQ_CLS", 1, "BertForSequenceClassification"),
        ("SEQ_CLS", 4, "BertForSequenceClassification"),
        ("TOKEN_CLS", 3, "BertForTokenClassification"),
    ],
)
def test_config_says_the_class_and_the_labels_of_the_head(
    task: str, labels: int, architecture: str, saved: list[str] | None, tmp_path: Path
) -> None:
    new = head("classifier", labels)
    config, tensors, report = merge(tmp_path, new, task_type=task, modules_to_save=saved)
    names = [f"LABEL_{number}" for number in range(labels)]
    assert config == BERT | {
        "architectures": [architecture],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    assert equal(tensors["classifier.weight"], new["classifier.weight"])
    notes = "\n".join(report.plan.notes)
    counted = "1 label" if labels == 1 else f"{labels} labels"
    assert f"the output is a {architecture} with {counted}\n" in notes
    assert "labels are called LABEL_0" in notes
    assert report.warnings == ()


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 2}, 5),
        ({"_num_labels": 2}, 5),
        ({"problem_type": "single_label_classification"}, 1),
        ({"problem_type": "multi_label_classification", "num_labels": 3}, 2),
    ],
)
def test_what_the_config_said_of_the_head_before_is_corrected(
    fields: dict[str, Any], labels: int, tmp_path: Path
) -> None:
    """transformers refuses a config whose number of labels contradicts their names."""
    config, _, _ = merge(tmp_path, head("classifier", labels), BERT | fields, task_type="SEQ_CLS")
    expected = {"num_labels": labels, "_num_labels": labels, "problem_type": None}
    assert {key: config[key] for key in fields} == {key: expected[key] for key in fields}
    assert len(config["id2label"]) == labels


@pytest.mark.parametrize("labels", [2, 3])
def test_head_that_takes_the_place_of_one_for_as_many_labels_leaves_the_config(
    labels: int, tmp_path: Path
) -> None:
    config: dict[str, Any] = BERT | {"architectures": ["BertForSequenceClassification"]}
    if labels == 3:
        names = {"0": "no", "1": "yes", "2": "maybe"}
        config |= {"id2label": names, "label2id": {name: int(n) for n, name in names.items()}}
        config |= {"problem_type": "multi_label_classification"}
    base = PREFIXED | head("classifier", labels)
    new = {name: tensor + 1 for name, tensor in head("classifier", labels).items()}
    found, tensors, report = merge(tmp_path, new, config, base, task_type="SEQ_CLS")
    assert found == config
    assert equal(tensors["classifier.bias"], new["classifier.bias"])
    assert not any("config.json" in note for note in report.plan.notes)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ({"0": "no", "1": "yes", "2": "maybe"}, True),
        ({"0": "no", "1": "yes"}, False),
        ({"0": "no", "1": "yes", "2": "yes"}, False),
        ({"1": "no", "2": "yes", "3": "maybe"}, False),
        (["no", "yes", "maybe"], False),
        ({"0": 1, "1": 2, "2": 3}, False),
    ],
)
@pytest.mark.parametrize("where", ["adapter", "base"])
def test_labels_have_the_names_that_a_config_gives_to_all_of_them(
    where: str, names: Any, kept: bool, tmp_path: Path
) -> None:
    described = {"id2label": names, "problem_type": "multi_label_classification"}
    base = write_base(tmp_path / "base", PREFIXED, BERT | (described if where == "base" else {}))
    adapter = write_adapter(tmp_path / "adapter", LORA | head("classifier", 3), task_type="SEQ_CLS")
    if where == "adapter":
        (adapter / "config.json").write_text(json.dumps(described))
    _, report = merged(base, adapter)
    config = config_of(tmp_path / "merged")
    assert list(config["id2label"].values()) == (
        ["no", "yes", "maybe"] if kept else ["LABEL_0", "LABEL_1", "LABEL_2"]
    )
    assert config["label2id"] == {name: int(n) for n, name in config["id2label"].items()}
    assert any("nothing says their names" in note for note in report.plan.notes) != kept
    if where == "adapter":
        assert config["problem_type"] == "multi_label_classification"


def test_labels_of_the_adapter_go_before_those_of_the_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", PREFIXED, BERT | {"id2label": {"0": "no", "1": "yes"}})
    adapter = write_adapter(tmp_path / "adapter", LORA | head("classifier", 2), task_type="SEQ_CLS")
    (adapter / "config.json").write_text(json.dumps({"id2label": {"0": "ham", "1": "spam"}}))
    merged(base, adapter)
    assert config_of(tmp_path / "merged")["id2label"] == {"0": "ham", "1": "spam"}


@pytest.mark.parametrize(
    ("model", "names", "architecture"),
    [
        ("llama", ("score-",), "LlamaForSequenceClassification"),
        ("llama", ("score",), "LlamaForTokenClassification"),
        (
            "roberta",
            ("classifier.dense", "classifier.out_proj"),
            "RobertaForSequenceClassification",
        ),
        ("roberta", ("classifier",), "RobertaForTokenClassification"),
        ("distilbert", ("pre_classifier", "classifier"), "DistilBertForSequenceClassification"),
        ("vit", ("classifier",), "ViTForImageClassification"),
        ("bert", ("qa_outputs",), "BertForQuestionAnswering"),
        ("bert", ("classifier",), None),
    ],
)
def test_tensors_tell_the_class_where_no_task_does(
    model: str, names: tuple[str, ...], architecture: str | None, tmp_path: Path
) -> None:
    """But for BERT's, whose classes for texts and for tokens have the same head."""
    new: dict[str, Tensor] = {}
    for name in names:
        new |= head(name.rstrip("-"), 2, bias=not name.endswith("-"))
    given = {"model_type": model, "architectures": ["Some"]}
    config, _, report = merge(tmp_path, new, given, task_type=None)
    assert config["architectures"] == [architecture or "Some"]
    said = any("whose task neither task_type nor its tensors tell" in n for n in report.plan.notes)
    assert said == (architecture is None)


@pytest.mark.parametrize(
    ("known", "task", "name", "architecture"),
    [
        ("NewForCausalLM", "SEQ_CLS", "score", "NewForSequenceClassification"),
        ("NewLMHeadModel", "TOKEN_CLS", "classifier", "NewForTokenClassification"),
        ("NewModel", "QUESTION_ANS", "qa_outputs", "NewForQuestionAnswering"),
        ("NewForMaskedLM", None, "qa_outputs", "NewForQuestionAnswering"),
        ("NewForMaskedLM", None, "score", "NewForMaskedLM"),
        ("New", "SEQ_CLS", "score", "New"),
    ],
)
def test_class_of_an_unknown_model_is_called_as_its_others_are(
    known: str, task: str | None, name: str, architecture: str, tmp_path: Path
) -> None:
    given = {"model_type": "new", "architectures": [known]}
    config, _, _ = merge(tmp_path, head(name, 5), given, task_type=task)
    assert config["architectures"] == [architecture]
    assert len(config["id2label"]) == 5


@pytest.mark.parametrize("task", ["CAUSAL_LM", "FEATURE_EXTRACTION", None])
def test_no_head_leaves_the_config(task: str | None, tmp_path: Path) -> None:
    whole = {"bert.pooler.dense.weight": eighths(3, 3) + 1, "bert.pooler.dense.bias": eighths(3)}
    config, _, report = merge(tmp_path, whole, task_type=task, modules_to_save=["pooler"])
    assert config == BERT
    assert report.plan.head is None


def test_head_that_is_skipped_leaves_the_config(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", PREFIXED, BERT)
    adapter = write_adapter(tmp_path / "adapter", LORA | head("score", 2), task_type="SEQ_CLS")
    merged(base, adapter, options=loratools.MergeOptions(skip=("score.*",)))
    assert config_of(tmp_path / "merged") == BERT


def test_heads_of_two_adapters_are_told_apart(tmp_path: Path) -> None:
    """One config describes one of them."""
    base = write_base(tmp_path / "base", PREFIXED, BERT)
    one = write_adapter(tmp_path / "one", LORA | head("classifier", 4), task_type="TOKEN_CLS")
    two = write_adapter(tmp_path / "two", head("qa_outputs", 2) | LORA, task_type="QUESTION_ANS")
    _, report = merged(base, one, two)
    assert config_of(tmp_path / "merged")["architectures"] == ["BertForTokenClassification"]
    told = f"{two}: brings a head too, qa_outputs.weight; config.json describes classifier.weight"
    assert told in report.plan.notes


def test_base_without_config_is_merged_and_told_of_the_head(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", PREFIXED)
    adapter = write_adapter(tmp_path / "adapter", LORA | head("score", 3), task_type="SEQ_CLS")
    _, report = merged(base, adapter)
    assert report.plan.notes[-1].startswith("score.weight: a head of 3 labels; the base has no")


class TestNames:
    """The names of the base model in the class of the head."""

    @pytest.mark.parametrize("limit", [None, 40])
    def test_base_model_gets_the_prefix_it_has_in_the_class(
        self, limit: int | None, tmp_path: Path
    ) -> None:
        """In every file and in the index, with the bytes of the base."""
        others = {"cls.bias": eighths(2), "bert.extra.bias": eighths(2)}
        base = write_base(tmp_path / "base", BODY | others, BERT)
        adapter = write_adapter(
            tmp_path / "adapter", LORA | head("classifier", 2), task_type="SEQ_CLS"
        )
        write = loratools.WriteOptions(max_shard_bytes=limit)
        tensors, report = merged(base, adapter, write=write)
        wanted = {*PREFIXED, *others, "classifier.weight", "classifier.bias"}
        assert set(tensors) == wanted
        for name, tensor in POOLER.items():
            assert equal(tensors[f"bert.{name}"], tensor)
        index = tmp_path / "merged" / "model.safetensors.index.json"
        if limit is not None:
            assert set(json.loads(index.read_text())["weight_map"]) == wanted
        assert "4 base tensors unchanged" in report.accounting
        assert report.plan.of_base[f"{QUERY}.weight"].name == f"bert.{QUERY}.weight"

    def test_renamed_tensors_are_converted_like_any(self, tmp_path: Path) -> None:
        base = write_base(tmp_path / "base", BODY, BERT)
        adapter = write_adapter(
            tmp_path / "adapter", LORA | head("classifier", 2), task_type="SEQ_CLS"
        )
        dtype: Any = "bfloat16"
        tensors, _ = merged(base, adapter, options=loratools.MergeOptions(dtype=dtype))
        assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
        assert equal(tensors["bert.pooler.dense.bias"], POOLER["pooler.dense.bias"].bfloat16())

    def test_prefix_of_another_class_is_exchanged(self, tmp_path: Path) -> None:
        weights = {
            "model.layers.0.self_attn.q_proj.weight": eighths(3, 3),
            "model.norm.weight": eighths(3),
            "lm_head.weight": eighths(8, 3),
        }
        base = write_base(tmp_path / "base", weights, LLAMA)
        lora = pair("transformer.layers.0.self_attn.q_proj", 3, 3)
        adapter = write_adapter(
            tmp_path / "adapter", lora | head("qa_outputs", 2), task_type="QUESTION_ANS"
        )
        tensors, report = merged(base, adapter)
        assert "transformer.norm.weight" in tensors
        assert "lm_head.weight" in tensors
        assert not any(name.startswith("model.") for name in tensors)
        assert config_of(tmp_path / "merged")["architectures"] == ["LlamaForQuestionAnswering"]
        passed_over = "lm_head.weight: kept from the base; LlamaForQuestionAnswering passes over it"
        assert passed_over in report.plan.notes

    @pytest.mark.parametrize("updates", [{}, pair(QUERY, 3, 3)], ids=["head", "bare"])
    def test_base_model_is_known_by_its_class_where_no_target_tells_its_prefix(
        self, updates: dict[str, Tensor], tmp_path: Path
    ) -> None:
        config = BERT | {"architectures": ["BertModel"]}
        base = write_base(tmp_path / "base", BODY, config)
        tensors = updates | head("classifier", 2)
        adapter = write_adapter(tmp_path / "adapter", tensors, task_type="SEQ_CLS")
        found, _ = merged(base, adapter)
        assert set(found) == {*PREFIXED, "classifier.weight", "classifier.bias"}

    def test_head_is_no_tensor_of_a_layer_with_the_same_ending(self, tmp_path: Path) -> None:
        router = {"bert.layers.0.router.classifier.weight": eighths(7, 3)}
        new = head("classifier", 2)
        _, tensors, _ = merge(tmp_path, new, None, PREFIXED | router, task_type="TOKEN_CLS")
        assert equal(tensors["classifier.weight"], new["classifier.weight"])
        (name,) = router
        assert equal(tensors[name], router[name])


class TestPadding:
    """What reads the last token of a text must know which tokens are padding."""

    def config(self, folder: Path, files: dict[str, Any], where: str, **config: Any) -> Any:
        query = "model.layers.0.self_attn.q_proj"
        base = write_base(folder / "base", {f"{query}.weight": eighths(3, 3)}, LLAMA | config)
        tensors = pair(query, 3, 3) | head("score", 2, bias=False)
        adapter = write_adapter(folder / "adapter", tensors, task_type="SEQ_CLS")
        for name, content in files.items():
            (folder / where / name).write_text(json.dumps(content))
        _, self.report = merged(base, adapter)
        return config_of(folder / "merged").get("pad_token_id")

    @pytest.mark.parametrize("where", ["base", "adapter"])
    @pytest.mark.parametrize(
        "files",
        [
            {
                "tokenizer_config.json": {
                    "pad_token": "<pad>",
                    "added_tokens_decoder": {"6": {"content": "<s>"}, "7": {"content": "<pad>"}},
                }
            },
            {
                "tokenizer_config.json": {"pad_token": {"content": "<pad>"}},
                "tokenizer.json": {"added_tokens": [{"id": 7, "content": "<pad>"}]},
            },
            {
                "special_tokens_map.json": {"pad_token": "<pad>"},
                "tokenizer_config.json": {},
                "tokenizer.json": {},
                "vocab.json": {"<s>": 6, "<pad>": 7},
            },
        ],
    )
    def test_padding_token_is_that_of_the_tokenizer(
        self, files: dict[str, Any], where: str, tmp_path: Path
    ) -> None:
        assert self.config(tmp_path, files, where) == 7
        assert any("pad_token_id becomes 7" in note for note in self.report.plan.notes)

    @pytest.mark.parametrize(
        "files",
        [
            {},
            {"tokenizer_config.json": {"pad_token": None}},
            {"tokenizer_config.json": {"pad_token": "<pad>"}},
            {
                "tokenizer_config.json": {"pad_token": "<pad>", "added_tokens_decoder": []},
                "tokenizer.json": {"added_tokens": {"<pad>": 7}},
            },
        ],
    )
    def test_padding_token_that_is_not_known_is_said_to_be_missing(
        self, files: dict[str, Any], tmp_path: Path
    ) -> None:
        assert self.config(tmp_path, files, "base") is None
        assert any("pad_token_id is missing" in note for note in self.report.plan.notes)

    def test_padding_token_of_the_config_is_kept(self, tmp_path: Path) -> None:
        files = {
            "tokenizer_config.json": {"pad_token": "<pad>"},
            "vocab.json": {"<pad>": 7},
        }
        assert self.config(tmp_path, files, "base", pad_token_id=0) == 0
        assert not any("pad_token_id" in note for note in self.report.plan.notes)
