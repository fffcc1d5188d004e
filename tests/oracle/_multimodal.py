"""Tiny models of text and images, made by transformers, and the names that each has had."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "depth": 2,
    "embed_dim": 16,
    "num_heads": 2,
    "initializer_range": 0.2,
}
_CLIP = _VISION | {"model_type": "clip_vision_model", "projection_dim": 16}
_SIGLIP = _VISION | {"model_type": "siglip_vision_model", "projection_dim": 16}
_LLAMA = _TEXT | {"model_type": "llama"}
_QWEN = _TEXT | {"model_type": "qwen2"}
_MROPE = _TEXT | {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
_IMAGE = {"image_token_id": 3, "image_token_index": 3}
_QWEN_IDS = {"image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5}


class Tiny(NamedTuple):
    """The sizes of a tiny model, by what its config calls its parts."""

    text: dict[str, Any]
    vision: dict[str, Any] | None
    rest: dict[str, Any] = {}  # noqa: RUF012
    cls: str | None = None


TINY: dict[str, Tiny] = {
    "gemma3": Tiny(_TEXT | {"sliding_window": 8}, _SIGLIP, {"mm_tokens_per_image": 4} | _IMAGE),
    "llava": Tiny(_LLAMA, _CLIP, _IMAGE),
    "llava_next": Tiny(_LLAMA, _CLIP),
    "llava_onevision": Tiny(_QWEN, _SIGLIP),
    "vipllava": Tiny(_LLAMA, _CLIP),
    "video_llava": Tiny(_LLAMA, _CLIP),
    "paligemma": Tiny(_TEXT | {"model_type": "gemma"}, _SIGLIP, {"projection_dim": 16}),
    "mistral3": Tiny(_TEXT | {"model_type": "mistral"}, _VISION | {"model_type": "pixtral"}),
    "aya_vision": Tiny(_TEXT | {"model_type": "cohere2"}, _SIGLIP),
    "internvl": Tiny(
        _QWEN,
        _VISION | {"model_type": "internvl_vision", "image_size": [28, 28], "patch_size": [14, 14]},
    ),
    "got_ocr2": Tiny(_QWEN, _VISION | {"output_channels": 8, "mlp_dim": 24, "window_size": 2}),
    "mllama": Tiny(
        _TEXT | {"cross_attention_layers": [1]},
        {
            "hidden_size": 16,
            "attention_heads": 2,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "intermediate_size": 24,
            "vision_output_dim": 32,
            "image_size": 28,
            "patch_size": 14,
            "intermediate_layers_indices": [1],
            "max_num_tiles": 1,
            "supported_aspect_ratios": [[1, 1]],
        },
    ),
    "idefics2": Tiny(_TEXT | {"model_type": "mistral"}, _VISION),
    "idefics3": Tiny(_LLAMA, _VISION, {"scale_factor": 2}),
    "smolvlm": Tiny(_LLAMA, _VISION, {"scale_factor": 2}),
    "qwen2_vl": Tiny(_MROPE, _VISION, _QWEN_IDS),
    "qwen2_5_vl": Tiny(
        _MROPE, _VISION | {"out_hidden_size": 16, "fullatt_block_indexes": [1]}, _QWEN_IDS
    ),
    "qwen3_vl": Tiny(
        _MROPE,
        _VISION
        | {"out_hidden_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 4},
    ),
    "glm4v": Tiny(_TEXT, _VISION | {"out_hidden_size": 16}),
    "qwen2_audio": Tiny(
        _QWEN,
        None,
        {
            "audio_config": {
                "model_type": "qwen2_audio_encoder",
                "d_model": 16,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 24,
                "num_mel_bins": 8,
                "max_source_positions": 8,
            }
        },
        "Qwen2AudioForConditionalGeneration",
    ),
}


def build(kind: str) -> Any:
    """The model of this type, with weights of a fixed seed."""
    tiny = TINY[kind]
    parts = {"text_config": dict(tiny.text)}
    if tiny.vision is not None:
        parts["vision_config"] = dict(tiny.vision)
    config = AutoConfig.for_model(
        kind, **(parts | tiny.rest), tie_word_embeddings=False, pad_token_id=0
    )
    torch.manual_seed(0)
    if tiny.cls is not None:
        return getattr(transformers, tiny.cls)(config)
    return transformers.AutoModelForImageTextToText.from_config(config)


def named(model: nn.Module, folder: Path) -> Mapping[str, Mapping[str, str]]:
    """The names of a model's matrices in each nesting, by their names in memory.

    They are those in memory, those that transformers saves, and both with the level that it had in
    the vision models of CLIP and SigLIP before version 5, which is on most published models.
    """
    model.save_pretrained(folder)  # type: ignore[operator]
    of_bytes = {_bytes(t): name for name, t in load_file(folder / "model.safetensors").items()}
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if tensor.dim() > 1 and name.endswith(".weight")
    }
    saved = {name: of_bytes[_bytes(tensor)] for name, tensor in tensors.items()}
    return {
        "in memory": {name: name for name in saved},
        "saved": saved,
        "in memory, transformers 4": {name: with_level(name) for name in saved},
        "saved, transformers 4": {name: with_level(other) for name, other in saved.items()},
    }


def with_level(name: str) -> str:
    """A name with the level that transformers 4 had inside of a tower that is CLIP or SigLIP."""
    inner = r"((?:vision|image|video)_tower\.)(?=(?:encoder|embeddings|\w+_layr?norm|head)\b)"
    return re.sub(inner, r"\1vision_model.", name)


def inputs(kind: str) -> dict[str, Tensor]:
    """A text with an image: 4 patches, which are one token or 4 of them."""
    generator = torch.Generator().manual_seed(2)
    text = torch.arange(8, 20)
    if kind.startswith("qwen"):
        ids = torch.cat([torch.tensor([5, 3]), text])
        pixels = torch.randn(4, 3 * 2 * 14 * 14, generator=generator)
        types = (ids == 3).int()
        return {
            "input_ids": ids[None],
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, 2, 2]]),
            "mm_token_type_ids": types[None],
        }
    ids = torch.cat([torch.full((4,), 3), text])
    pixels = torch.randn(1, 3, 28, 28, generator=generator)
    return {"input_ids": ids[None], "pixel_values": pixels}


def respell(file: Path, respelled: Callable[[str], str]) -> None:
    """Give the tensors of a file other names."""
    tensors = {respelled(name): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
