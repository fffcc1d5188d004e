"""Tiny pipelines of diffusers, whose weights are small integers, and adapters of them by PEFT."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection


def _text(kind: Any = CLIPTextModel) -> Any:
    return kind(
        CLIPTextConfig(
            bos_token_id=0,
            eos_token_id=2,
            hidden_size=8,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=2,
            vocab_size=50,
            max_position_embeddings=16,
            projection_dim=8,
        )
    )


def _unet(**fields: Any) -> Any:
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        norm_num_groups=2,
        attention_head_dim=2,
        **fields,
    )


def _sd1() -> Any:
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=_text(),
        tokenizer=None,
        unet=_unet(),
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> Any:
    unet = _unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=56,
    )
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=_text(),
        text_encoder_2=_text(CLIPTextModelWithProjection),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=None,
    )


def _sd3() -> Any:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        caption_projection_dim=8,
        joint_attention_dim=8,
        pooled_projection_dim=16,
        out_channels=4,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=None,
        vae=None,
        text_encoder=_text(CLIPTextModelWithProjection),
        tokenizer=None,
        text_encoder_2=_text(CLIPTextModelWithProjection),
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _flux() -> Any:
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=[4, 4, 8],
    )
    return FluxPipeline(
        scheduler=None,
        vae=None,
        text_encoder=_text(),
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )


_PIPELINES: Mapping[str, Callable[[], Any]] = {
    "SD1": _sd1,
    "SDXL": _sdxl,
    "SD3": _sd3,
    "Flux": _flux,
}
PIPELINES = tuple(_PIPELINES)


def pipeline(name: str) -> Any:
    """A pipeline with the same weights at each call: integers, so that sums of them are exact."""
    made = _PIPELINES[name]()
    random = torch.Generator().manual_seed(1)
    for model in components(made).values():
        fill(model.parameters(), random)
    return made


def components(made: Any) -> dict[str, Any]:
    """The models of a pipeline that adapters are trained for, by the names of components."""
    models = {name: getattr(made, name, None) for name in made._lora_loadable_modules}
    return {name: model for name, model in models.items() if model is not None}


def fill(parameters: Iterator[nn.Parameter], random: torch.Generator) -> None:
    """Set parameters to integers from -2 to 2."""
    for parameter in parameters:
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=random).float()


def weights(made: Any) -> dict[str, Tensor]:
    """The weights of all components, by component and name."""
    return {
        f"{component}.{name}": tensor.clone()
        for component, model in components(made).items()
        for name, tensor in model.state_dict().items()
    }
