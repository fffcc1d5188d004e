"""Load a pipeline, load a LoRA, fuse and save it, as diffusers' guide shows, and print the seconds.

    python diffusers_merge.py merge BASE ADAPTER OUT     BASE and OUT are folders
    python diffusers_merge.py make sdxl|flux SCALE OUT   a pipeline of zeros to be merged into

Imports are not timed. Tokenizers and what else has no weights is left out of the pipeline.
"""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers


def sdxl(scale: int) -> dict[str, Any]:
    """SDXL with its widths divided by the scale; its VAE is whole."""
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(320 // scale, 640 // scale, 1280 // scale),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048 // scale,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816 // scale,
        norm_num_groups=32 // scale,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    small = transformers.CLIPTextConfig(
        hidden_size=768 // scale,
        intermediate_size=3072 // scale,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768 // scale,
    )
    large = transformers.CLIPTextConfig(
        hidden_size=1280 // scale,
        intermediate_size=5120 // scale,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280 // scale,
    )
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": transformers.CLIPTextModel(small),
        "text_encoder_2": transformers.CLIPTextModelWithProjection(large),
    }


def flux(scale: int) -> dict[str, Any]:
    """The transformer of FLUX.1 with fewer heads, and its widths divided by the scale."""
    transformer = diffusers.FluxTransformer2DModel(
        num_attention_heads=24 // scale,
        joint_attention_dim=4096 // scale,
        pooled_projection_dim=768 // scale,
        guidance_embeds=True,
    )
    return {"transformer": transformer}


PIPELINES = {
    "sdxl": (sdxl, diffusers.StableDiffusionXLPipeline, torch.float16),
    "flux": (flux, diffusers.FluxPipeline, torch.bfloat16),
}


def make(kind: str, scale: int, out: str) -> None:
    models, cls, dtype = PIPELINES[kind]
    with torch.device("meta"):
        made = models(scale)
    for name, model in made.items():
        made[name] = model.to(dtype).to_empty(device="cpu")
        for tensor in made[name].state_dict().values():
            tensor.zero_()
    cls(**made, **absent(cls, made)).save_pretrained(out)


def absent(cls: Any, models: Iterable[str]) -> dict[str, None]:
    """The components of a pipeline that are none of these."""
    return dict.fromkeys(set(cls._get_signature_keys(cls)[0]) - set(models))


def merge(base: str, adapter: str, out: str) -> None:
    named = json.loads((Path(base) / "model_index.json").read_text())["_class_name"]
    _, cls, dtype = next(p for p in PIPELINES.values() if p[1].__name__ == named)
    models = [folder.name for folder in Path(base).iterdir() if folder.is_dir()]
    began = time.perf_counter()
    pipeline = cls.from_pretrained(base, dtype=dtype, **absent(cls, models))
    pipeline.load_lora_weights(adapter)
    pipeline.fuse_lora(components=[model for model in models if model != "vae"])
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(out)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    diffusers.utils.logging.disable_progress_bar()
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(arguments[0], int(arguments[1]), arguments[2])
    else:
        merge(*arguments)
