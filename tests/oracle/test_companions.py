"""What transformers loads of a merged folder: the tokenizer that belongs to the merged model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.oracles import WARNED, oracle

oracle("transformers")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

import loratools  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED]

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
NEW = {"content": "<new>", "special": True}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def loaded(tmp_path: Path, base: dict[str, Any], adapter: dict[str, Any]) -> Any:
    """The tokenizer of a merge, with these files put into both folders; the model loads too."""
    folders = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(FIXTURES / "stories260k", folders[0])
    shutil.copytree(FIXTURES / "adapters/plain", folders[1])
    for folder, files in zip(folders, (base, adapter), strict=True):
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text)
    merged = tmp_path / "merged"
    loratools.merge(*folders, output=merged)
    AutoModelForCausalLM.from_pretrained(merged)
    return AutoTokenizer.from_pretrained(merged)


def config(**fields: Any) -> dict[str, Any]:
    text = (FIXTURES / "stories260k/tokenizer_config.json").read_text()
    known: dict[str, Any] = json.loads(text)
    return known | fields


SAME = AutoTokenizer.from_pretrained(FIXTURES / "stories260k")("Once upon a time")["input_ids"]


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        ({}, {"chat_template.jinja": "new"}),
        ({"chat_template.jinja": "old"}, {"chat_template.jinja": "new"}),
        ({"tokenizer_config.json": config(chat_template="old")}, {"chat_template.jinja": "new"}),
        ({"chat_template.jinja": "old"}, {"tokenizer_config.json": config(chat_template="new")}),
        ({"chat_template.jinja": "old"}, {"chat_template.json": {"chat_template": "new"}}),
        ({"chat_template.jinja": "new"}, {"tokenizer_config.json": config(pad_token="<unk>")}),
        (
            {"tokenizer_config.json": config(chat_template="new")},
            {"tokenizer_config.json": config(pad_token="<unk>")},
        ),
    ],
)
def test_the_template_is_the_adapters_or_else_the_bases(
    tmp_path: Path, base: dict[str, Any], adapter: dict[str, Any]
) -> None:
    tokenizer = loaded(tmp_path, base, adapter)
    assert tokenizer.chat_template == "new"
    assert tokenizer("Once upon a time")["input_ids"] == SAME


@pytest.mark.parametrize(
    ("adapter", "known"),
    [
        ({"tokenizer_config.json": config(added_tokens_decoder={"512": NEW})}, True),
        ({"added_tokens.json": {"<new>": 512}}, True),
        ({"tokenizer_config.json": config(added_tokens_decoder={"5": NEW})}, False),
        ({"tokenizer_config.json": config(added_tokens_decoder={"600": NEW})}, False),
        ({"added_tokens.json": {"<new>": 600}}, False),
    ],
)
def test_a_new_token_has_the_id_of_its_training_or_is_none(
    tmp_path: Path, adapter: dict[str, Any], known: bool
) -> None:
    """transformers itself would give it the next free id, whatever the settings say."""
    tokenizer = loaded(tmp_path, {}, adapter)
    assert tokenizer.convert_tokens_to_ids("<new>") == (512 if known else tokenizer.unk_token_id)
    assert tokenizer("Once upon a time")["input_ids"] == SAME


@pytest.mark.parametrize("template", [{}, {"chat_template.jinja": "new"}])
def test_a_vocabulary_without_settings_keeps_special_tokens_and_template_of_the_base(
    tmp_path: Path, template: dict[str, Any]
) -> None:
    """By itself it would have none: no token to begin and to end with."""
    grown = (FIXTURES / "adapters/embedding-vocab/tokenizer.json").read_text()
    brought = {"tokenizer.json": grown, **template}
    tokenizer = loaded(tmp_path, {"chat_template.jinja": "old"}, brought)
    before = AutoTokenizer.from_pretrained(FIXTURES / "stories260k")
    assert before.eos_token is not None
    assert len(tokenizer) == 520
    assert tokenizer.special_tokens_map == before.special_tokens_map
    assert tokenizer.all_special_ids == before.all_special_ids
    assert tokenizer.chat_template == ("new" if template else "old")
