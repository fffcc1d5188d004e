"""Whatever is wrong in a config, the error names the file that the config is in, and the field."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import loratools
from loratools.errors import FormatError, LoratoolsError, OptionError, UnsupportedError
from loratools.formats import decode
from loratools.formats._peft.matches import NAME_FIELDS, NUMBER_FIELDS
from loratools.formats.described.description import parse
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from loratools.publishing.card.reports import read_steps
from tests.e2e.commands import SINGLE, SMALL
from tests.formats.bundles import PREFIX, lora
from tests.narrowing import present

FILE = "a/adapter_config.json"
TOKENS = f"{PREFIX}tok.trainable_tokens_delta"
TENSORS = {key: torch.ones(shape) for key, shape in {**lora("x.q"), TOKENS: (2, 3)}.items()}
GOOD: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "trainable_token_indices": [1, 2],
}
MLX_TENSORS = {"x.q.lora_a": torch.ones(3, 2), "x.q.lora_b": torch.ones(2, 4)}
MLX: dict[str, Any] = {"lora_parameters": {"rank": 2, "scale": 2.0}, "num_layers": 1}
#: What a wrong value of a field is put into, by the name of the field.
Fields = Mapping[str, Callable[[Any], dict[str, Any]]]
#: Values of all types, each of them wrong in most fields.
WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e300, "", "pissa", "(x", [], [None], [[1]], [1, 1]),
    *({}, {"x.q": "y"}, {"x.q": 0}, {"(": 1}, {"tok": [3]}, {"nblocks": "2"}),
    {"target_modules_bd_a": ["q"], "nblocks": "2"},
)


class Recorded(dict[str, Any]):
    """A config that remembers which of its fields were read."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.read: dict[str, None] = {}

    def get(self, key: str, default: Any = None) -> Any:
        self.read[key] = None
        return super().get(key, default)


def held(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Bundle:
    sources = {key: Held(key, tensor, "F32") for key, tensor in tensors.items()}
    return Bundle("a", sources, {}, config, (), 0, config_file=FILE)


def fields_that_are_read() -> list[str]:
    config = Recorded(GOOD)
    decode(held(TENSORS, config)).check_usable()
    return list(config.read)


def refusal(bundle: Bundle) -> LoratoolsError | None:
    """The error of a merge of an adapter; None if there is none."""
    try:
        decode(bundle).check_usable()
    except LoratoolsError as error:
        return error
    return None


def refused_fields(bundle: Bundle, fields: Fields) -> Iterator[str]:
    """The names of the fields for which an adapter is refused, with a wrong value in each."""
    for name, inside in fields.items():
        for value in WRONG:
            config = {**present(bundle.config), **inside(value)}
            if (error := refusal(replace(bundle, config=config))) is not None:
                assert str(error).startswith(f"{FILE}: "), error
                assert error.file == FILE
                assert name in str(error), (name, value, error)
                yield name


def in_object(name: str, **others: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {**others, name: value}


def test_a_wrong_value_of_any_field_that_is_read_is_named_with_the_file() -> None:
    fields = {name: in_object(name) for name in fields_that_are_read()}
    refused = set(refused_fields(held(TENSORS, GOOD), fields))
    assert refused >= {*GOOD, *NAME_FIELDS, *NUMBER_FIELDS, "bias", "layers_to_transform"}
    assert refused >= {"enable_lora", "use_bdlora", "init_lora_weights", "layer_replication"}


def test_so_is_one_in_a_config_of_mlx() -> None:
    parameters = {"rank": 2, "scale": 2.0}

    def parameter(name: str) -> Callable[[Any], dict[str, Any]]:
        return lambda value: {"lora_parameters": {**parameters, name: value}}

    fields = {name: parameter(name) for name in ("rank", "scale", "alpha", "keys")}
    fields |= {name: in_object(name) for name in ("lora_parameters", "fine_tune_type")}
    assert set(refused_fields(held(MLX_TENSORS, MLX), fields)) == {*fields}


WRONG_RANK = {**GOOD, "r": "x"}
SAID = 'r must be a finite number, is "x"'


def test_the_file_is_the_one_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(TENSORS, tmp_path / "adapter_model.safetensors")
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text(json.dumps(WRONG_RANK))
    Path("adapter_config.json").write_text(json.dumps(WRONG_RANK))
    weights = "adapter_model.safetensors"
    for file, path, config in (
        ("adapter_config.json", ".", None),
        ("adapter_config.json", weights, None),
        ("other.json", weights, "other.json"),
        ("./other.json", ".", "./other.json"),
    ):
        with pytest.raises(FormatError) as caught:
            loratools.open_adapter(path, config=config)
        assert (caught.value.complaint, caught.value.file) == (f"{file}: {SAID}", file)


def test_a_config_that_is_in_no_file_is_called_the_config_of_its_adapter() -> None:
    with pytest.raises(FormatError, match=f"^mine: config: {SAID}$"):
        loratools.adapter_from_tensors(TENSORS, config=WRONG_RANK, name="mine")


def test_metadata_in_the_place_of_a_config_is_named(tmp_path: Path) -> None:
    factors = {f"unet.x.q.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}
    file = tmp_path / "x.safetensors"
    save_file(factors, file, {"lora_adapter_metadata": json.dumps({"unet.r": "x"})})
    with pytest.raises(FormatError) as caught:
        loratools.open_adapter(file)
    assert caught.value.complaint == f"{file}: lora_adapter_metadata: unet: {SAID}"
    assert caught.value.file == str(file)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("up: 3", "up"),
        ('upp: "{target}.B"', "upp"),
        ('up: "{target}.B"', "down"),
        ('up: "B"\ndown: "{target}.A"', "up"),
        ("scale: x", "scale"),
        ("- up", "parts"),
        ("up: [", "YAML"),
    ],
)
def test_so_is_a_wrong_description_of_keys(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(OptionError, match=field) as caught:
        parse(str(file))
    assert caught.value.file == str(file)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("text", "field"),
    [("{", "JSON"), ("{}", "not the JSON of"), ('{"adapter": 1, "strengths": []}', "adapter")],
)
def test_so_is_a_wrong_report_for_a_card(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(FormatError, match=field) as caught:
        read_steps([{"adapter": "a", "strengths": {}}, file])
    assert caught.value.file == str(file)
    assert str(caught.value).startswith(str(file))


def test_so_is_a_head_that_a_config_says_was_trained_and_that_is_lost(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "a"
    for path, name, tensors in (
        (base, "model", {"x.q.weight": torch.ones(4, 3), "score.weight": torch.ones(2, 3)}),
        (folder, "adapter_model", {key: torch.ones(shape) for key, shape in lora("x.q").items()}),
    ):
        path.mkdir()
        save_file(tensors, path / f"{name}.safetensors")
    (base / "config.json").write_text("{}")
    file = folder / "adapter_config.json"
    file.write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "task_type": "SEQ_CLS"})
    )
    with pytest.raises(UnsupportedError, match="task_type") as caught:
        loratools.merge(base, folder, output=None)
    assert caught.value.file == str(file)
    assert str(caught.value).startswith(f"{file}: ")


#: Fields of a config.json that decide how weights are read, beside those of the fixture.
OF_MODELS = (
    *("text_config", "is_encoder_decoder", "pad_token_id", "id2label", "num_labels"),
    *("quantization_config", "max_position_embeddings", "type_vocab_size", "_class_name"),
)


@pytest.mark.parametrize("wrong", [[1], {"a": [1]}, [[None]]], ids=str)
def test_a_field_of_a_models_config_with_a_wrong_type_is_no_fault(
    tmp_path: Path, wrong: object
) -> None:
    """The base is read as without the field, or refused in one line."""
    base = Path(shutil.copytree(SINGLE, tmp_path / "base"))
    fields = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for field in (*fields, *OF_MODELS):
        (base / "config.json").write_text(json.dumps({**fields, field: wrong}), encoding="utf-8")
        with contextlib.suppress(LoratoolsError):
            loratools.merge(base, SMALL, output=None)
