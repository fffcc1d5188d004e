"""Tiny pipelines with random weights, as diffusers saves them and as one file in original layout.

diffusers and transformers make the models. Their weights are renamed and fused by our rules, and
`Family.mapped` has diffusers' own converters read the result.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import CodeType, FunctionType
from typing import Any, final

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils
from torch import Tensor
from torch.nn import Module

from loratools.names.architectures import architectures
from loratools.names.patterns import depths_of
from loratools.names.rules import Part, Rows, Rules

Tensors = dict[str, Tensor]
Converter = Callable[[Module, Tensors], Tensors]

#: The width of all transformers, for which diffusers' converters have this number.
WIDTH, CONVERTERS_WIDTH = 16, 3072


@final
@dataclass(frozen=True)
class Stored:
    """How a single file and adapters store one model of a pipeline.

    Attributes:
        component: diffusers' name of the model.
        root: what precedes the names of its tensors in a single file.
        comfyui: what precedes the names of its modules in an adapter of ComfyUI.
        kohya: the same in kohya's format.
        convert: makes diffusers' tensors of those in the file.
        architecture: whose rules the names follow; without one they are those of transformers 4.
        level: what transformers 5 has left out at the beginning of the names.
        has_diffusers_names: whether kohya's trainer uses diffusers' names of modules.
    """

    component: str
    root: str
    comfyui: str
    kohya: str
    convert: Converter
    architecture: str = ""
    level: str = ""
    has_diffusers_names: bool = False

    @property
    def rules(self) -> Rules:
        """The rules of its architecture; none if the names are the same."""
        found = (a.rules for a in architectures() if a.name == self.architecture)
        return next(found, Rules(()))


@final
@dataclass(frozen=True)
class Family:
    """A tiny pipeline of diffusers, and how a single file stores its models.

    Attributes:
        cls: the class of the pipeline.
        models: make its models.
        without: the parts that the pipeline has and this one does without.
        stored: how its models are stored.
        dtype: the dtype of all weights.
    """

    cls: str
    models: Mapping[str, Callable[[], Any]]
    without: str
    stored: tuple[Stored, ...]
    dtype: torch.dtype
    options: Mapping[str, Any]

    def pipeline(self) -> Any:
        """A pipeline with the same random weights at each call."""
        random = torch.Generator().manual_seed(1)
        models: dict[str, Any] = {name: make() for name, make in self.models.items()}
        for model in models.values():
            for parameter in model.parameters():
                parameter.data = torch.randn(parameter.shape, generator=random) / 2
            model.to(self.dtype)
        without = dict.fromkeys(self.without.split())
        return getattr(diffusers, self.cls)(**without, **models, **self.options)

    def single_file(self, made: Any) -> Tensors:
        """The weights of a pipeline, by the names and in the shapes of a single file."""
        return {
            f"{stored.root}{name}": tensor
            for stored in self.stored
            for name, tensor in original(stored, saved(made, stored.component)).items()
        }

    def mapped(self, made: Any, tensors: Mapping[str, Tensor]) -> Tensors:
        """What diffusers makes of a single file, by component and name."""
        found = {}
        for stored in self.stored:
            own = {name: t for name, t in tensors.items() if name.startswith(stored.root)}
            converted = stored.convert(getattr(made, stored.component), own)
            for name, tensor in converted.items():
                found[f"{stored.component}.{name.removeprefix(stored.level)}"] = tensor
        return found

    def weights(self, made: Any) -> Tensors:
        """The weights of a pipeline, by component and name."""
        return {
            f"{stored.component}.{name}": tensor
            for stored in self.stored
            for name, tensor in saved(made, stored.component).items()
        }


def saved(made: Any, component: str) -> Tensors:
    """The tensors of one model as they are saved: of one with several names, the first."""
    tensors = getattr(made, component).state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return {name: t.detach().clone() for name, t in tensors.items() if first[id(t)] == name}


def original(stored: Stored, tensors: Mapping[str, Tensor]) -> Tensors:
    """A model's tensors by the original names, parts of one tensor together."""
    wholes: dict[str, list[Part]] = {}
    for part in parts(stored, tensors):
        wholes.setdefault(part.original, []).append(part)
    return {name: _whole(pieces, tensors) for name, pieces in wholes.items()}


def _whole(pieces: list[Part], tensors: Mapping[str, Tensor]) -> Tensor:
    first = tensors[pieces[0].diffusers]
    if pieces[0].rows.is_transposed:
        return first.T.contiguous()
    count = sum(len(tensors[piece.diffusers]) for piece in pieces)
    whole = first.new_empty(count, *first.shape[1:])
    for piece in pieces:
        tensor = tensors[piece.diffusers]
        whole[indices(piece.rows, count, len(tensor))] = tensor
    return whole


def parts(stored: Stored, names: Iterable[str]) -> list[Part]:
    """diffusers' tensors as parts of original ones; of several names, the authors' one."""
    names = tuple(names)
    if not stored.architecture:
        return [Part(f"{stored.level}{name}", name, Rows()) for name in names]
    depths = depths_of(names)
    found = {name: stored.rules.wholes(name, depths) or () for name in names}
    # In a U-Net, what doubles the size follows attention, if there is some.
    taken = {_place(wholes[0]) for name, wholes in found.items() if ".attentions." in name}
    return [
        next(part for part in wholes if ".upsamplers." not in name or _place(part) not in taken)
        for name, wholes in found.items()
    ]


def _place(part: Part) -> str:
    return ".".join(part.original.split(".")[:3])


def indices(rows: Rows, of_all: int, of_part: int) -> list[int]:
    """The rows of an original tensor that one of diffusers consists of."""
    ranges = rows.resolved(of_all, of_part)
    assert ranges is not None
    return [row for begin, end in ranges for row in range(begin, end)]


def _by(name: str, *arguments: Any) -> Converter:
    """A converter of diffusers that is given the tensors, and these arguments."""
    function = _for_width(getattr(single_file_utils, name))
    return lambda model, tensors: function(tensors, *arguments)


def _for_width(function: Any) -> Any:
    """A converter that takes a transformer to be as wide as ours."""

    def changed(code: CodeType) -> CodeType:
        constants = tuple(
            changed(c) if isinstance(c, CodeType) else WIDTH if c == CONVERTERS_WIDTH else c
            for c in code.co_consts
        )
        return code.replace(co_consts=constants)

    code = changed(function.__code__)
    return FunctionType(code, function.__globals__, argdefs=function.__defaults__)


def _open_clip(root: str) -> Converter:
    def convert(model: Module, tensors: Tensors) -> Tensors:
        found: Tensors = single_file_utils.convert_open_clip_checkpoint(model, tensors, root)
        return found

    return convert


def _unet_of(model: Any, tensors: Tensors) -> Tensors:
    found: Tensors = single_file_utils.convert_ldm_unet_checkpoint(tensors, model.config)
    return found


# The models


def _clip(cls: str = "CLIPTextModel") -> Any:
    config = transformers.CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        hidden_size=8,
        intermediate_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        vocab_size=20,
        max_position_embeddings=8,
        projection_dim=8,
    )
    return getattr(transformers, cls)(config)


def _clip_with_projection() -> Any:
    return _clip("CLIPTextModelWithProjection")


def _t5() -> Any:
    config = transformers.T5Config(
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_heads=2,
        num_layers=2,
        vocab_size=20,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5EncoderModel(config)


def _unet(**fields: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        layers_per_block=2,
        cross_attention_dim=8,
        norm_num_groups=2,
        attention_head_dim=2,
        **fields,
    )


def _sd1() -> Any:
    return _unet(
        block_out_channels=(4, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def _sdxl() -> Any:
    return _unet(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=56,
    )


def _sd35() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=WIDTH,
        joint_attention_dim=8,
        pooled_projection_dim=16,
        pos_embed_max_size=4,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def _flux() -> Any:
    return diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )


def _wan() -> Any:
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=32,
        num_layers=2,
        image_dim=8,
        added_kv_proj_dim=WIDTH,
    )


def _hunyuan_video() -> Any:
    return diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        text_embed_dim=8,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 2, 4),
    )


def _clip_l(component: str, root: str, level: str, kohya: str) -> Stored:
    convert = _by("convert_ldm_clip_checkpoint", root)
    comfyui = "text_encoders.clip_l.transformer."
    return Stored(component, root, comfyui, kohya, convert, level=level)


def _denoiser(component: str, root: str, architecture: str, convert: Converter) -> Stored:
    return Stored(component, root, "diffusion_model.", "lora_unet_", convert, architecture)


_ROOT = "model.diffusion_model."
_LEVEL = "text_model."
_SD = "Stable Diffusion 1 or 2"
_T5_ROOT = "text_encoders.t5xxl.transformer."


def _t5_in(component: str) -> Stored:
    convert = _by("convert_sd3_t5_checkpoint_to_diffusers")
    return Stored(component, _T5_ROOT, _T5_ROOT, "lora_te3_", convert)


FAMILIES: Mapping[str, Family] = {
    "SD1": Family(
        "StableDiffusionPipeline",
        {"unet": _sd1, "text_encoder": _clip},
        "vae tokenizer scheduler safety_checker feature_extractor",
        (
            replace(_denoiser("unet", _ROOT, _SD, _unet_of), has_diffusers_names=True),
            _clip_l("text_encoder", "cond_stage_model.transformer.", _LEVEL, "lora_te_"),
        ),
        torch.float16,
        {"requires_safety_checker": False},
    ),
    "SDXL": Family(
        "StableDiffusionXLPipeline",
        {"unet": _sdxl, "text_encoder": _clip, "text_encoder_2": _clip_with_projection},
        "vae tokenizer tokenizer_2 scheduler",
        (
            _denoiser("unet", _ROOT, _SD, _unet_of),
            _clip_l("text_encoder", "conditioner.embedders.0.transformer.", _LEVEL, "lora_te1_"),
            Stored(
                "text_encoder_2",
                "conditioner.embedders.1.model.",
                "text_encoders.clip_g.transformer.",
                "lora_te2_",
                _open_clip("conditioner.embedders.1.model."),
                "OpenCLIP",
            ),
        ),
        torch.float16,
        {},
    ),
    "SD3.5": Family(
        "StableDiffusion3Pipeline",
        {
            "transformer": _sd35,
            "text_encoder": _clip_with_projection,
            "text_encoder_2": _clip_with_projection,
            "text_encoder_3": _t5,
        },
        "vae tokenizer tokenizer_2 tokenizer_3 scheduler",
        (
            _denoiser(
                "transformer",
                _ROOT,
                "Stable Diffusion 3",
                _by("convert_sd3_transformer_checkpoint_to_diffusers"),
            ),
            _clip_l("text_encoder", "text_encoders.clip_l.transformer.", "", "lora_te1_"),
            Stored(
                "text_encoder_2",
                "text_encoders.clip_g.transformer.",
                "text_encoders.clip_g.transformer.",
                "lora_te2_",
                _by("convert_ldm_clip_checkpoint", "text_encoders.clip_g.transformer."),
            ),
            _t5_in("text_encoder_3"),
        ),
        torch.float16,
        {},
    ),
    "Flux.1": Family(
        "FluxPipeline",
        {"transformer": _flux, "text_encoder": _clip, "text_encoder_2": _t5},
        "vae tokenizer tokenizer_2 scheduler",
        (
            _denoiser(
                "transformer",
                _ROOT,
                "FLUX.1",
                _by("convert_flux_transformer_checkpoint_to_diffusers"),
            ),
            _clip_l("text_encoder", "text_encoders.clip_l.transformer.", _LEVEL, "lora_te1_"),
            _t5_in("text_encoder_2"),
        ),
        torch.bfloat16,
        {},
    ),
    "Wan": Family(
        "WanPipeline",
        {"transformer": _wan},
        "vae tokenizer text_encoder scheduler",
        (_denoiser("transformer", "", "Wan", _by("convert_wan_transformer_to_diffusers")),),
        torch.bfloat16,
        {},
    ),
    "HunyuanVideo": Family(
        "HunyuanVideoPipeline",
        {"transformer": _hunyuan_video},
        "vae tokenizer tokenizer_2 text_encoder text_encoder_2 scheduler",
        (
            _denoiser(
                "transformer",
                "",
                "HunyuanVideo",
                _by("convert_hunyuan_video_transformer_to_diffusers"),
            ),
        ),
        torch.bfloat16,
        {},
    ),
}
