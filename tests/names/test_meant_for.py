"""The names of an adapter's modules tell which models it may be for."""

import pytest

from loratools.names.meant_for import meant_for
from loratools.names.rules import Side, parse_rules
from tests.names.key_lists import key_list
from tests.names.spelled import SIDES
from tests.names.test_spelled import DENOISERS, each_spelling, targets, tensors

U_NETS = {"sd1": "Stable Diffusion 1 or 2", "sd2": "Stable Diffusion 1 or 2", "sdxl": "SDXL"}
ATTENTION = "lora_unet_double_blocks_0_img_attn_qkv.weight"


@pytest.mark.parametrize("model", [model for model in DENOISERS if model not in U_NETS])
def test_an_adapter_of_all_modules_is_for_its_own_model_in_every_spelling(model: str) -> None:
    fields, _ = parse_rules(key_list(model).rules_text())
    for number, spelling in each_spelling(model):
        names = [target for target, _ in targets(model, number).values()]
        expected = () if spelling.program == "OneTrainer in parts" else (fields["name"],)
        assert {*expected} <= {*meant_for(names)}, spelling.program


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", U_NETS)
def test_the_blocks_with_attention_tell_u_nets_from_each_other(model: str, side: Side) -> None:
    names = [name for name in tensors(model, side) if ".attn2.to_k." in name]
    assert meant_for(names) == (U_NETS[model],)
    flattened = [f"lora_unet_{name[:-7].replace('.', '_')}.weight" for name in names]
    assert meant_for(flattened) == (U_NETS[model],)


def test_u_nets_that_have_a_module_alike_are_not_told_from_each_other() -> None:
    assert meant_for(["unet.mid_block.attentions.0.proj_in.weight"]) == ()


def test_names_that_several_models_have_are_for_each_of_them() -> None:
    assert {"FLUX.1", "Chroma", "HunyuanVideo"} <= {*meant_for([ATTENTION])}
    assert meant_for([ATTENTION, "lora_unet_vector_in_in_layer.weight"]) == (
        "FLUX.1",
        "HunyuanVideo",
    )


def test_a_module_that_no_model_has_is_for_none() -> None:
    assert meant_for([ATTENTION, "lora_unet_double_blocks_0_other.weight"]) == ()


def test_text_encoders_tell_nothing() -> None:
    encoder = "lora_te1_text_model_encoder_layers_0_mlp_fc1.weight"
    assert meant_for([encoder]) == ()
    assert meant_for([encoder, ATTENTION]) == meant_for([ATTENTION])
