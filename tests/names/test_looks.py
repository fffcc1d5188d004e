"""What kind of model names look like they are of."""

import pytest

import loratools
from loratools.errors import MatchError
from loratools.merging.unmatched import Unmatched
from loratools.names.looks import kind_of
from loratools.names.matching import BaseNames
from tests.e2e.commands import FIXTURES, SINGLE, SMALL
from tests.names.key_lists import key_list

IMAGE = FIXTURES / "kohya/sd15-locon/sd15-locon.safetensors"


@pytest.mark.parametrize("adapter", sorted((FIXTURES / "adapters").iterdir()), ids=lambda p: p.name)
def test_adapters_of_language_models_look_like_it(adapter: object) -> None:
    assert kind_of(loratools.open_adapter(str(adapter))) == "a language model"


@pytest.mark.parametrize("adapter", sorted((FIXTURES / "kohya").glob("*/*.safetensors")))
def test_adapters_of_image_models_look_like_it(adapter: object) -> None:
    assert kind_of(loratools.open_adapter(str(adapter))) == "an image model"


@pytest.mark.parametrize(
    "prefix",
    [
        *("text_encoder.", "text_encoder_2.", "text_encoder_3."),
        *("text_encoders.clip_l.transformer.", "text_encoders.qwen25_7b.transformer."),
        *("lora_te_", "lora_te1_", "lora_te3_"),
    ],
)
def test_a_text_encoder_of_a_pipeline_is_of_an_image_model_though_it_is_one_of_language(
    prefix: str,
) -> None:
    assert kind_of([f"{prefix}model.layers.0.mlp.fc1.weight"]) == "an image model"


def test_names_that_many_models_have_look_like_none() -> None:
    assert kind_of(["m.a.weight", "blocks.0.attn.qkv.weight"]) is None
    assert kind_of(["vision_model.encoder.layers.0.self_attn.q_proj.weight"]) is None
    assert kind_of([]) is None


def test_an_adapter_of_another_kind_of_model_is_said_to_be_one_with_what_each_looks_like() -> None:
    with pytest.raises(MatchError) as caught:
        loratools.merge(SINGLE, IMAGE, output=None)
    message = str(caught.value)
    assert message.startswith(f"{IMAGE}: for an image model, Stable Diffusion 1 or 2, and ")
    assert f"{SINGLE} is a language model, llama (by the names of their weights)" in message
    assert "says that it was trained on 'v1-5-pruned-emaonly.safetensors'" in message


def test_an_adapter_of_another_model_of_the_same_kind_is_not_said_to_be_of_another_kind() -> None:
    with pytest.raises(MatchError, match="none of its updates has a place in") as caught:
        loratools.merge(SINGLE, FIXTURES / "adapters/gpt2-conv1d", output=None)
    assert "a language model" not in str(caught.value)


@pytest.mark.parametrize("model", ["flux1", "sdxl", "wan21_t2v", "sd3", "z_image", "qwen_image"])
def test_an_adapter_of_a_language_model_is_not_for_an_image_model(model: str) -> None:
    unmatched = Unmatched(BaseNames(key_list(model).tensors))
    adapter = loratools.open_adapter(SMALL)
    unmatched.add(0, next(iter(adapter)), "no such tensor")
    message = str(unmatched.error([adapter], "base"))
    assert ": for a language model, and base is an image model, " in message
    assert "says that it was trained on 'stories260k'" in message


def test_a_text_encoder_is_of_no_kind_because_both_have_it() -> None:
    assert BaseNames(key_list("clip_l").tensors).kind is None
