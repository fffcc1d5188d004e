"""What people take for an adapter, by the keys that such files have, is named for what it is."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import loratools
from loratools.cli.failures import exit_code
from loratools.errors import FormatError, UnsupportedError
from loratools.formats import decode, no_adapter
from loratools.formats._by_sight import NO_ADAPTERS
from tests.formats.bundles import bundle, lora

#: Some keys of each kind of file, as the programs write them that make such files.
FILES: Sequence[tuple[str, Sequence[str]]] = (
    ("a textual inversion", ["emb_params"]),
    ("a textual inversion", ["<cat-toy>"]),
    ("a textual inversion", ["<s1>", "<s2>"]),
    ("a textual inversion", ["clip_g", "clip_l"]),
    ("an IP-Adapter", ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"]),
    ("an IP-Adapter", ["image_proj.latents", "ip_adapter.1.to_v_ip.weight"]),
    ("an IP-Adapter", ["double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight"]),
    ("a ControlNet", ["control_model.input_blocks.0.0.weight"]),
    ("a ControlNet", ["conv_in.weight", "controlnet_cond_embedding.conv_in.weight"]),
    ("a ControlNet", ["controlnet_blocks.0.weight", "transformer_blocks.0.attn.to_q.weight"]),
    ("a T2I-Adapter", ["body.0.block1.weight", "conv_in.weight"]),
    ("a T2I-Adapter", ["adapter.body.0.resnets.0.block1.weight"]),
    ("a motion module", ["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"]),
    ("a whole checkpoint", ["model.diffusion_model.input_blocks.0.0.weight", "alphas_cumprod"]),
    ("a whole checkpoint", ["conditioner.embedders.1.model.ln_final.bias"]),
    ("a VAE", ["decoder.up.0.block.0.conv1.weight", "encoder.conv_in.weight"]),
    ("a VAE", ["decoder.up_blocks.0.resnets.0.conv1.weight", "quant_conv.bias"]),
    ("the settings of LoRA layers", ["layers.0.q.alpha", "layers.0.q.dropout_p"]),
    ("the weights of a model", ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]),
    ("the weights of a model", ["h.0.attn.c_attn.weight", "h.0.ln_1.bias"]),
    ("the weights of a model", ["down_blocks.0.attentions.0.to_q.weight", "conv_in.weight"]),
    ("the weights of a model", ["image_encoder.blocks.0.attn.qkv.weight"]),
    ("the weights of a model", ["bert.encoder.layer.0.attention.self.query.weight"]),
)  # fmt: skip

TENSOR = torch.ones(2, 3)
#: What programs pickle, in which not all values are tensors.
PICKLES: Sequence[tuple[str, Any]] = (
    ("a textual inversion", {
        "string_to_token": {"*": 265}, "string_to_param": {"*": TENSOR}, "name": "cat", "step": 9,
    }),
    ("a hypernetwork", {
        768: (TENSOR, TENSOR), 320: (TENSOR, TENSOR), "step": 5, "name": "style",
        "layer_structure": [1, 2, 1], "activation_func": "linear",
    }),
    ("a hypernetwork", {768: [TENSOR], "step": 5, "name": "s", "sd_checkpoint": "a"}),
    ("an IP-Adapter", {"image_proj": {"latents": TENSOR}, "ip_adapter": {"1.to_k_ip": TENSOR}}),
    ("the state of a training", {"state": {0: {"step": 1, "exp_avg": TENSOR}}, "param_groups": []}),
    ("the state of a training", {"state_dict": {"a": TENSOR}, "optimizer_states": [], "epoch": 1}),
    ("the state of a training by DeepSpeed", {"module": {"a": TENSOR}, "ds_version": "0.12.3"}),
    ("the state of a training", {"optimizer_state_dict": {}, "ds_version": "0.12.3"}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "keys"), FILES)
def test_file_that_is_no_adapter_is_named_for_what_it_is(name: str, keys: Sequence[str]) -> None:
    message = f"here: not an adapter but {re.escape(name)}\\b.*: "
    with pytest.raises(UnsupportedError, match=message) as raised:
        decode(bundle(dict.fromkeys(keys, (2, 3)), None))
    assert exit_code(raised.value) == 1


@pytest.mark.parametrize(("name", "value"), PICKLES)
def test_pickle_that_holds_more_than_tensors_is_named_for_what_it_is(
    tmp_path: Path, name: str, value: Any
) -> None:
    path = tmp_path / "model.pt"
    torch.save(value, path)
    message = f"{re.escape(str(path))}: not an adapter but {re.escape(name)}: "
    with pytest.raises(UnsupportedError, match=message):
        loratools.inspect(path, allow_pickle=True)


def test_pickle_of_something_unknown_is_still_refused_by_what_is_in_it(tmp_path: Path) -> None:
    torch.save({"a": {"b": TENSOR}}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="a is a dict, not a tensor"):
        loratools.inspect(tmp_path / "a.pt", allow_pickle=True)


def test_every_row_has_an_example_that_no_row_before_it_takes() -> None:
    named = {name for name, _ in (*FILES, *PICKLES)}
    assert named == {n for row in NO_ADAPTERS for n in named if row.name.startswith(n)}
    assert {row.name for row in NO_ADAPTERS} == {
        row.name for row in NO_ADAPTERS if row.name.startswith(tuple(named))
    }


def test_adapter_is_never_taken_for_something_else(tmp_path: Path) -> None:
    """Not even with whole tensors that such files have too, or a name in angle brackets."""
    whole = {"base_model.model.lm_head.weight": (5, 3), "base_model.model.wte.weight": (5, 3)}
    for keys in (lora("q"), lora("image_proj.q"), lora("q") | whole):
        decode(bundle(keys, {"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    assert no_adapter(["<s1>", "unet:0:up"]) is None
    assert no_adapter(["clip_l", "clip_l.text_model.x.lora_A.weight"]) is None
    assert no_adapter(["fc1.A", "fc1.B", "step"]) is None
    assert no_adapter([]) is None


def test_published_file_of_settings_alone_is_named(fixtures: Path) -> None:
    folder = fixtures / "real/not-an-adapter-smolvla-bin"
    with pytest.raises(UnsupportedError, match="but the settings of LoRA layers, without the fac"):
        loratools.open_adapter(folder, allow_pickle=True)


def test_unknown_keys_are_shown_with_what_describes_them(tmp_path: Path) -> None:
    save_file({"fc1.A": TENSOR, "fc1.B": TENSOR.T.contiguous()}, tmp_path / "home.safetensors")
    with pytest.raises(
        UnsupportedError, match=r"it holds fc1\.A, fc1\.B\); .*'keys': …} describes"
    ):
        loratools.open_adapter(tmp_path / "home.safetensors")
