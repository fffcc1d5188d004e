"""A model is called by its name, and one with nearly all of its layers is not.

The names are those of the classes of transformers and diffusers, at full width, without memory.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from loratools.names.matching import BaseNames
from tests.oracles import WARNED, oracle

oracle("diffusers")

import diffusers  # noqa: E402
import transformers  # noqa: E402

pytestmark = [pytest.mark.oracle, *WARNED, pytest.mark.filterwarnings("ignore::FutureWarning")]

#: Models by class, and what they are called.
TEXT: Mapping[str, str | None] = {
    "CLIPTextModel": "CLIP, transformers 5 layout",
    "CLIPTextModelWithProjection": "OpenCLIP, transformers layout",
    "T5EncoderModel": "T5, common layout",
    "UMT5EncoderModel": "UMT5, common layout",
    "LongT5EncoderModel": None,
    "UdopEncoderModel": None,
    "SwitchTransformersEncoderModel": None,
    "SiglipTextModel": None,
    "SiglipVisionModel": None,
    "Siglip2VisionModel": None,
    "CLIPVisionModel": None,
    "CLIPVisionModelWithProjection": None,
    "CLIPModel": None,
    "SiglipModel": None,
    "ViTModel": None,
    "BartModel": None,
    "ChineseCLIPVisionModel": None,
}
LAYERS: Mapping[str, Any] = {"num_layers": 8}
SINGLE: Mapping[str, Any] = {"num_layers": 4, "num_single_layers": 8}
SDXL: Mapping[str, Any] = {
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": 8,
}
UP: Mapping[str, Any] = {
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
}
IMAGES: Mapping[str, tuple[Mapping[str, Any], str | None]] = {
    "FluxTransformer2DModel": (SINGLE, "FLUX.1, diffusers layout"),
    "FluxControlNetModel": (SINGLE, None),
    "BriaTransformer2DModel": (SINGLE, None),
    "LongCatImageTransformer2DModel": (SINGLE, None),
    "OvisImageTransformer2DModel": (SINGLE, None),
    "MochiTransformer3DModel": (LAYERS, "Mochi, diffusers layout"),
    "CogView4Transformer2DModel": (LAYERS, None),
    "CogView3PlusTransformer2DModel": (LAYERS, None),
    "LTXVideoTransformer3DModel": (LAYERS, "LTX-Video, diffusers layout"),
    "PixArtTransformer2DModel": (LAYERS, None),
    "AllegroTransformer3DModel": (LAYERS, None),
    "HunyuanVideoTransformer3DModel": (SINGLE, "HunyuanVideo, diffusers layout"),
    "HunyuanImageTransformer2DModel": (SINGLE, None),
    "HunyuanVideo15Transformer3DModel": ({"num_layers": 16}, None),
    "QwenImageTransformer2DModel": (LAYERS, "Qwen-Image, common layout"),
    "QwenImageControlNetModel": (LAYERS, None),
    "SD3Transformer2DModel": (LAYERS, "Stable Diffusion 3, diffusers layout"),
    "SD3ControlNetModel": (LAYERS, None),
    "UNet2DConditionModel": ({**SDXL, **UP}, "Stable Diffusion 1 or 2, diffusers layout"),
    "ControlNetModel": (SDXL, None),
    "AutoencoderKL": ({}, "AutoencoderKL, diffusers layout"),
    "VQModel": ({}, None),
    "AutoencoderKLTemporalDecoder": ({}, None),
    "AutoencoderKLCogVideoX": ({}, None),
    "AsymmetricAutoencoderKL": ({}, None),
    "AutoencoderKLLTX2Video": ({}, None),
}


def called(model: torch.nn.Module) -> str | None:
    """What a model is recognised as."""
    return BaseNames({name: tuple(t.shape) for name, t in model.state_dict().items()}).words


@pytest.mark.parametrize("name", TEXT)
def test_an_encoder_is_called_by_its_name_or_by_none(name: str) -> None:
    cls = getattr(transformers, name)
    with torch.device("meta"):
        model = cls(cls.config_class())
    assert called(model) == TEXT[name]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_model_is_called_by_its_name_or_by_none(name: str) -> None:
    options, words = IMAGES[name]
    with torch.device("meta"):
        model = getattr(diffusers, name)(**options)
    assert called(model) == words


def test_layers_of_a_language_model_alone_show_no_image_model() -> None:
    """ERNIE-Image has `layers.0.mlp.up_proj` too."""
    for name in ("Qwen3Model", "LlamaModel", "Gemma2Model"):
        cls = getattr(transformers, name)
        with torch.device("meta"):
            names = cls(cls.config_class(num_hidden_layers=2)).state_dict()
        for part in ("", ".mlp.", ".mlp.up_proj", ".self_attn."):
            assert BaseNames({n: (4, 4) for n in names if part in n}).words is None, part
