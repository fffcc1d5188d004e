"""Classifiers trained by PEFT, merged, and loaded by transformers' Auto class without an option."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.auto import modeling_auto

import loratools
from loratools.names.heads import SUFFIXES, known_heads
from tests.merged import config_of

#: PEFT 0.21 asks transformers 5.23 for a property of an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

AUTO = {
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
    "QUESTION_ANS": transformers.AutoModelForQuestionAnswering,
}
TASKS = [("SEQ_CLS", 2), ("SEQ_CLS", 5), ("TOKEN_CLS", 3), ("QUESTION_ANS", 2)]
CASES = [
    *(("BertModel", *task) for task in TASKS),
    *(("DistilBertModel", *task) for task in TASKS),
    *(("GPT2LMHeadModel", *task) for task in TASKS),
    *(("LlamaForCausalLM", *task) for task in TASKS),
    ("BertForPreTraining", "SEQ_CLS", 5),
    ("GPT2Model", "TOKEN_CLS", 3),
    ("LlamaModel", "QUESTION_ANS", 2),
]
TINY = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip
#: By the class that the base was saved from: with and without the prefix of the base model, with
#: and without an output head for words.
BASES = {
    "BertModel": ("BertConfig", TINY, ["query", "value"]),
    "BertForPreTraining": ("BertConfig", TINY, ["query", "value"]),
    "DistilBertModel": (
        "DistilBertConfig",
        {"vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        ["q_lin", "v_lin"],
    ),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
         "eos_token_id": 2},
        ["c_attn"],
    ),
    "GPT2Model": (
        "GPT2Config",
        {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1,
         "eos_token_id": 2},
        ["c_attn"],
    ),
    "LlamaForCausalLM": ("LlamaConfig", TINY, ["q_proj", "v_proj"]),
    "LlamaModel": ("LlamaConfig", TINY, ["q_proj", "v_proj"]),
}  # fmt: skip


@final
@dataclass(frozen=True)
class Base:
    """A base without a head, on disk."""

    folder: Path
    model: Any
    targets: list[str]

    def train(self, task: str, labels: int, folder: Path) -> PeftModel:
        """An adapter of random values for a task, saved by PEFT to a folder."""
        torch.manual_seed(1)
        options = {} if task == "QUESTION_ANS" else {"num_labels": labels}
        model = AUTO[task].from_pretrained(self.folder, **options)
        # transformers loads no LlamaForCausalLM into its class for question answering.
        model.base_model.load_state_dict(self.model.base_model.state_dict(), strict=False)
        config = LoraConfig(
            task_type=task,
            r=4,
            target_modules=self.targets,
            fan_in_fan_out=self.model.config.model_type == "gpt2",
        )
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) / 4)
        adapted.save_pretrained(str(folder))
        return adapted


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    config, fields, targets = BASES[request.param]
    folder = tmp_path_factory.mktemp("heads") / "base"
    torch.manual_seed(0)
    model = getattr(transformers, request.param)(getattr(transformers, config)(**fields))
    model.save_pretrained(folder)
    return Base(folder, model, targets)


def without_list(adapter: Path) -> None:
    """As PEFT of 2023 and 2024 saved it: the head stored, and `modules_to_save` null."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": None}))


def outputs(model: Any) -> Tensor:
    """The logits for one text."""
    tokens = torch.arange(3, 12).unsqueeze(0)
    with torch.no_grad():
        found = model.eval()(tokens)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits])
    logits: Tensor = found.logits
    return logits


def assert_same(model: Any, expected: Tensor) -> None:
    """Equal but for what either side rounds: a merged weight by 2**-24, and sums in another order.

    Values of either model are below 8, and each of 2 layers adds a few dozens of terms.
    """
    found = outputs(model)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 64 * 2.0**-24 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize(("base", "task", "labels"), CASES, indirect=["base"])
def test_a_merged_classifier_loads_as_it_is_with_the_logits_of_base_and_adapter(
    base: Base, task: str, labels: int, tmp_path: Path
) -> None:
    adapted = base.train(task, labels, tmp_path / "adapter")
    expected = outputs(adapted)
    written = []
    for name in ("listed", "null"):
        if name == "null":
            without_list(tmp_path / "adapter")
        loratools.merge(base.folder, tmp_path / "adapter", output=tmp_path / name)
        model, info = AUTO[task].from_pretrained(tmp_path / name, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        assert_same(model, expected)
        assert config_of(tmp_path / name)["architectures"] == [type(model).__name__]
        assert model.config.num_labels == labels
        written.append((tmp_path / name / "model.safetensors").read_bytes())
    assert written[0] == written[1]
    # No reader has to guess a prefix, at which versions of transformers differ.
    assert set(model.state_dict()) <= set(load_file(tmp_path / "null" / "model.safetensors"))


@pytest.mark.parametrize("base", ["DistilBertModel"], indirect=True)
@pytest.mark.parametrize("verb", ["rescale", "resize", "combine"])
def test_a_head_without_a_list_goes_along_to_where_peft_loads_it(
    base: Base, verb: str, tmp_path: Path
) -> None:
    adapter, output = tmp_path / "adapter", tmp_path / "written"
    expected = outputs(base.train("SEQ_CLS", 5, adapter))
    without_list(adapter)
    if verb == "rescale":
        loratools.rescale(adapter, output=output, rescaling=loratools.Rescaling(balance=True))
    elif verb == "resize":
        loratools.resize(adapter, output=output, rule=loratools.RankRule(rank=4))
    else:
        loratools.combine([adapter], output=output)
    torch.manual_seed(7)
    model = AUTO["SEQ_CLS"].from_pretrained(base.folder, num_labels=5)
    assert_same(PeftModel.from_pretrained(model, output), expected)


def test_what_the_class_has_and_nobody_stores_is_named(tmp_path: Path) -> None:
    """PEFT saves no pooler, and a BertForMaskedLM has none: it was random in training too."""
    config, fields, targets = BASES["BertModel"]
    model = transformers.BertForMaskedLM(getattr(transformers, config)(**fields))
    model.save_pretrained(tmp_path / "base")
    Base(tmp_path / "base", model, targets).train("SEQ_CLS", 2, tmp_path / "adapter")
    report = loratools.merge(tmp_path / "base", tmp_path / "adapter", output=tmp_path / "merged")
    lacking = "bert.pooler.dense.weight, bert.pooler.dense.bias: neither in the base nor in an"
    (warning,) = report.warnings
    assert warning.startswith(lacking)
    assert any("cls.predictions" in n and "passes over it" in n for n in report.plan.notes)


def _mapped(task: str) -> dict[str, str]:
    """The class of each model type for a task, as transformers' Auto classes know them."""
    names = {
        "SEQ_CLS": "SEQUENCE_CLASSIFICATION", "TOKEN_CLS": "TOKEN_CLASSIFICATION",
        "QUESTION_ANS": "QUESTION_ANSWERING", "IMAGE_CLS": "IMAGE_CLASSIFICATION",
        "AUDIO_CLS": "AUDIO_CLASSIFICATION",
    }  # fmt: skip
    return dict(getattr(modeling_auto, f"MODEL_FOR_{names[task]}_MAPPING_NAMES"))


@pytest.mark.parametrize("task", SUFFIXES)
def test_the_table_has_the_classes_of_the_auto_classes(task: str) -> None:
    mapped = _mapped(task)
    types = {kind for each in SUFFIXES for kind in _mapped(each)}
    listed = {
        kind: head.architecture for kind in types for head in known_heads(kind) if head.task == task
    }
    assert len(listed) >= 6
    assert listed == {kind: mapped.get(kind) for kind in listed}


def _tiny(model_type: str) -> Iterator[tuple[str, set[str], str]]:
    """The class, names and prefix that transformers has for the heads of a tiny model."""
    for head in known_heads(model_type):
        kind = getattr(transformers, head.architecture)
        fields = {"num_hidden_layers": 1, "vocab_size": 40, "pad_token_id": 0}
        with torch.device("meta"):
            model = kind(kind.config_class(**fields))
        yield head.task, set(model.state_dict()), f"{kind.base_model_prefix}."


@pytest.mark.parametrize(
    "model_type",
    ["albert", "bert", "deberta-v2", "distilbert", "electra", "falcon", "gemma", "gpt_neox",
     "mistral", "modernbert", "opt", "qwen2", "roberta", "vit", "xlm-roberta", "xlnet"],
)  # fmt: skip
def test_the_table_has_the_names_of_the_tensors(model_type: str) -> None:
    heads = {head.task: head for head in known_heads(model_type)}
    found = {task: (names, prefix) for task, names, prefix in _tiny(model_type)}
    common = set.intersection(*(names for names, _ in found.values()))
    for task, (names, prefix) in found.items():
        head = heads[task]
        assert head.prefix == prefix
        outside = {name for name in names if not name.startswith(prefix)}
        inside = {name for name in names - common if "pooler" in name} - outside
        assert set(head.parameters) == outside | (inside if task == "SEQ_CLS" else set())
        assert head.output in names
