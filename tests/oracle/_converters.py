"""The models whose checkpoints diffusers converts: their classes, configurations and converters.

A model that is added needs an entry in `MODELS`, its key list in `tests/names/key_lists/`, and its
rules in `loratools/names/aliases/`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils
from torch import Tensor
from torch.nn import Module

Tensors = dict[str, Tensor]
Converter = Callable[[Module, Tensors], Tensors]


@final
@dataclass(frozen=True)
class Model:
    """A model that diffusers converts.

    Attributes:
        cls: the name of its class in diffusers or transformers.
        config: the arguments of the class, or of its configuration.
        convert: makes diffusers' tensors of the original ones, given the model of that class.
        prefix: what the original names begin with, for the converter.
        unused: tensors that the original of this model has, and diffusers' has not, although it has
            those of other models with the same rules: beginnings of names, with the reason.
        level: what transformers 5 has left out at the beginning of the names in its class.
    """

    cls: str
    config: Mapping[str, Any]
    convert: Converter
    prefix: str = ""
    unused: Mapping[str, str] = field(default_factory=dict)
    level: str = ""

    def built(self) -> Module:
        """The model of the class, without values."""
        with torch.device("meta"):
            if hasattr(diffusers, self.cls):
                built: Module = getattr(diffusers, self.cls)(**self.config)
            else:
                cls = getattr(transformers, self.cls)
                built = cls(cls.config_class(**self.config))
        return built


def _unet(**config: Any) -> Model:
    def convert(model: Any, tensors: Tensors) -> Tensors:
        converted: Tensors = single_file_utils.convert_ldm_unet_checkpoint(tensors, model.config)
        return converted

    return Model("UNet2DConditionModel", config, convert, "model.diffusion_model.")


def _open_clip(cls: str, prefix: str, unused: Mapping[str, str], **config: Any) -> Model:
    def convert(model: Module, tensors: Tensors) -> Tensors:
        converted: Tensors = single_file_utils.convert_open_clip_checkpoint(model, tensors, prefix)
        return converted

    level = "text_model." if cls == "CLIPTextModel" else ""
    return Model(cls, config, convert, prefix, unused, level)


def _vae(**config: Any) -> Model:
    def convert(model: Any, tensors: Tensors) -> Tensors:
        converted: Tensors = single_file_utils.convert_ldm_vae_checkpoint(tensors, model.config)
        return converted

    levels: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
    }
    return Model("AutoencoderKL", {**levels, **config}, convert, "first_stage_model.")


def _by(name: str) -> Converter:
    """A function of diffusers that is given the tensors alone."""
    function: Callable[[Tensors], Tensors] = getattr(single_file_utils, name)
    return lambda model, tensors: function(tensors)


def _transformer(cls: str, convert: str, **config: Any) -> Model:
    return Model(cls, config, _by(f"convert_{convert}"))


def _sd3(**config: Any) -> Model:
    same = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048}
    name = "sd3_transformer_checkpoint_to_diffusers"
    return _transformer("SD3Transformer2DModel", name, **same, **config)


def _wan(cls: str, **config: Any) -> Model:
    return _transformer(cls, "wan_transformer_to_diffusers", **config)


def _wan_flf2v(model: Module, tensors: Tensors) -> Tensors:
    """Wan's converter, and one name that it leaves as it is, and its class does not have."""
    converted = _by("convert_wan_transformer_to_diffusers")(model, tensors)
    converted["condition_embedder.image_embedder.pos_embed"] = converted.pop("img_emb.emb_pos")
    return converted


_WAN_I2V = {"num_layers": 2, "in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
_NOT_IN_SD2 = "SD 2 uses the last but one layer, and no projection"

#: By the names of their key lists. Blocks are as many as these have.
MODELS: dict[str, Model] = {
    "sd1": _unet(block_out_channels=[320, 640, 1280, 1280], cross_attention_dim=768),
    "sd2": _unet(
        block_out_channels=[320, 640, 1280, 1280],
        cross_attention_dim=1024,
        use_linear_projection=True,
    ),
    "sdxl": _unet(
        block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10],
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    ),
    # The key list has the names of transformers 5, and the converter makes those of transformers 4.
    "clip_l": Model(
        "CLIPTextModel",
        {"hidden_size": 768, "intermediate_size": 3072},
        _by("convert_ldm_clip_checkpoint"),
        "cond_stage_model.transformer.text_model.",
        level="text_model.",
    ),
    "openclip_g": _open_clip(
        "CLIPTextModelWithProjection",
        "conditioner.embedders.1.model.",
        {},
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
    ),
    "openclip_h": _open_clip(
        "CLIPTextModel",
        "cond_stage_model.model.",
        {"transformer.resblocks.23.": _NOT_IN_SD2, "text_projection": _NOT_IN_SD2},
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
    ),
    "t5_xxl": Model(
        "T5EncoderModel",
        {
            "d_model": 4096,
            "d_ff": 10240,
            "num_heads": 64,
            "num_layers": 24,
            "feed_forward_proj": "gated-gelu",
        },
        _by("convert_sd3_t5_checkpoint_to_diffusers"),
        "text_encoders.t5xxl.transformer.",
    ),
    "sd3": _sd3(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    ),
    "sd35_medium": _sd3(
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=384,
        dual_attention_layers=range(13),
        qk_norm="rms_norm",
    ),
    "sd35_large": _sd3(
        num_layers=38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    ),
    "flux1": _transformer(
        "FluxTransformer2DModel",
        "flux_transformer_checkpoint_to_diffusers",
        num_layers=2,
        num_single_layers=2,
        guidance_embeds=True,
    ),
    "flux2": _transformer(
        "Flux2Transformer2DModel",
        "flux2_transformer_checkpoint_to_diffusers",
        num_layers=2,
        num_single_layers=2,
    ),
    "chroma": _transformer(
        "ChromaTransformer2DModel",
        "chroma_transformer_checkpoint_to_diffusers",
        num_layers=2,
        num_single_layers=2,
    ),
    "auraflow": _transformer(
        "AuraFlowTransformer2DModel",
        "auraflow_transformer_checkpoint_to_diffusers",
        num_mmdit_layers=2,
        num_single_dit_layers=2,
        pos_embed_max_size=9216,
    ),
    "mochi": _transformer("MochiTransformer3DModel", "mochi_transformer_checkpoint_to_diffusers"),
    "hunyuan_video": _transformer(
        "HunyuanVideoTransformer3DModel",
        "hunyuan_video_transformer_to_diffusers",
        num_layers=2,
        num_single_layers=2,
    ),
    "wan21_t2v": _wan("WanTransformer3DModel", num_layers=2),
    "wan21_i2v": _wan("WanTransformer3DModel", **_WAN_I2V),
    "wan21_flf2v": Model(
        "WanTransformer3DModel", {**_WAN_I2V, "pos_embed_seq_len": 514}, _wan_flf2v
    ),
    "wan21_vace": _wan("WanVACETransformer3DModel", num_layers=8, vace_layers=[0, 5]),
    "lumina2": _transformer(
        "Lumina2Transformer2DModel",
        "lumina2_to_diffusers",
        hidden_size=2304,
        num_layers=2,
        num_attention_heads=24,
        num_kv_heads=8,
        cap_feat_dim=2304,
    ),
    "z_image": _transformer(
        "ZImageTransformer2DModel",
        "z_image_transformer_checkpoint_to_diffusers",
        n_layers=2,
    ),
    "qwen_image": Model("QwenImageTransformer2DModel", {"num_layers": 2}, lambda model, same: same),
    "qwen_image_21": _transformer(
        "QwenImage21Transformer2DModel",
        "qwen_image21_transformer_checkpoint_to_diffusers",
        num_layers=2,
    ),
    "krea2": _transformer(
        "Krea2Transformer2DModel", "krea2_transformer_checkpoint_to_diffusers", num_layers=2
    ),
    "anima": _transformer(
        "CosmosTransformer3DModel",
        "cosmos_transformer_checkpoint_to_diffusers",
        in_channels=16,
        num_attention_heads=16,
        num_layers=2,
        extra_pos_embed_type=None,
    ),
    "ltx_video": _transformer(
        "LTXVideoTransformer3DModel",
        "ltx_transformer_checkpoint_to_diffusers",
        num_layers=2,
    ),
    "ltx2": _transformer(
        "LTX2VideoTransformer3DModel", "ltx2_transformer_to_diffusers", num_layers=2
    ),
    "hidream_i1": _transformer(
        "HiDreamImageTransformer2DModel",
        "hidream_transformer_to_diffusers",
        patch_size=2,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        caption_channels=[4096, 4096],
        axes_dims_rope=[64, 32, 32],
        llama_layers=range(4),
    ),
    "ernie_image": _transformer(
        "ErnieImageTransformer2DModel",
        "ernie_image_transformer_checkpoint_to_diffusers",
        hidden_size=4096,
        num_attention_heads=32,
        num_layers=2,
        ffn_hidden_size=12288,
        in_channels=128,
        out_channels=128,
        patch_size=1,
        text_in_dim=3072,
    ),
    "vae_sd": _vae(latent_channels=4),
    "vae_flux1": _vae(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False),
}
