"""Names of targets as each format spells them: which model of a pipeline, and which module in it.

A pipeline has a model that makes the image, here called the denoiser, and text encoders. Before the
path of a module, diffusers puts the name of a component (`unet.`, `text_encoder_2.`), ComfyUI a
path of its own (`diffusion_model.`, `text_encoders.clip_g.transformer.`), and kohya's format a
prefix, with the path flattened (`lora_unet_`, `lora_te2_`). Other formats store one model, and name
none.
"""

from typing import Literal, NamedTuple, final

from loratools.names.flattened import flattened_prefix
from loratools.names.layouts import readings

#: How a format spells the names of targets: as the modules of one model (`modules`), which is a
#: language model in some formats (`language`), or with the model's place in a pipeline.
#: A format that is `apart` has names of a model that is in no pipeline, such as a ControlNet.
Style = Literal["modules", "language", "flattened", "diffusers", "comfyui", "apart"]
#: The models of a pipeline. `clip` is the first text encoder, whether or not there are others. The
#: only model of an adapter, which may be any, is `model`, and one that is not known here `other`.
Part = Literal["denoiser", "clip", "clip_g", "t5", "vae", "model", "other"]

#: What the prefix of a target means: the denoiser, or a text encoder by its number.
Label = Literal["denoiser", "1", "2", "3"]

_DOTTED: dict[str, Label] = {
    "unet.": "denoiser",
    "transformer.": "denoiser",
    "diffusion_model.": "denoiser",
    "text_encoder.": "1",
    "text_encoder_2.": "2",
    "text_encoder_3.": "3",
    "text_encoders.clip_l.transformer.": "1",
    "text_encoders.clip_h.transformer.": "1",
    "text_encoders.clip_g.transformer.": "2",
    "text_encoders.t5xxl.transformer.": "3",
}
_FLATTENED: dict[str, Label] = {
    "lora_unet_": "denoiser",
    "lora_unet__": "denoiser",
    "lora_transformer_": "denoiser",
    "lycoris_": "denoiser",
    "lora_te_": "1",
    "lora_te1_": "1",
    "lora_te2_": "2",
    "lora_te3_": "3",
}
#: The prefix of each part in a style, as far as it is the same for all models.
_SPELLED: dict[tuple[Style, Part], str] = {
    ("flattened", "denoiser"): "lora_unet_",
    ("flattened", "clip_g"): "lora_te2_",
    ("flattened", "t5"): "lora_te3_",
    ("comfyui", "denoiser"): "diffusion_model.",
    ("comfyui", "clip_g"): "text_encoders.clip_g.transformer.",
    ("comfyui", "t5"): "text_encoders.t5xxl.transformer.",
    ("diffusers", "clip"): "text_encoder.",
    ("diffusers", "clip_g"): "text_encoder_2.",
}


@final
class Named(NamedTuple):
    """A target's name in its parts.

    Attributes:
        prefix: what stands before the module's path.
        part: the model of the pipeline that the prefix means.
        path: the module's path in that model, flattened if the prefix is.
        parameter: the name of the parameter in the module.
    """

    prefix: str
    part: Part
    path: str
    parameter: str

    @property
    def is_flattened(self) -> bool:
        """Whether the path has `_` for its dots."""
        return self.prefix.endswith("_")


def named(target: str, style: Style) -> Named:
    """The parts of a target's name in this style.

    >>> named("lora_te2_text_model_encoder_layers_0_mlp_fc1.weight", "flattened").part
    'clip_g'
    """
    module, _, parameter = target.rpartition(".")
    if style in ("modules", "language", "apart"):
        return Named("", "other" if style == "apart" else "model", module, parameter)
    if style == "flattened" and "." not in module:
        prefix = flattened_prefix(module)
        path = module.removeprefix(prefix)
        return Named(prefix, _part(_FLATTENED.get(prefix), path), path, parameter)
    prefix = next((prefix for prefix in _DOTTED if module.startswith(prefix)), "")
    if style == "flattened" and not prefix:  # some programs leave kohya's names as they were
        return Named("", "model", module, parameter)
    path = _nested(prefix, module.removeprefix(prefix))
    return Named(prefix, _part(_DOTTED.get(prefix), path), path, parameter)


def _nested(prefix: str, path: str) -> str:
    """The path of a module in CLIP, with the module around it that transformers 5 has left out."""
    is_clip = prefix.startswith("text_encoder") and path.startswith("encoder.layers.")
    return f"text_model.{path}" if is_clip else path


def _part(number: Label | None, path: str) -> Part:
    """The part that a prefix means, which for text encoders depends on the names of modules too."""
    encoders = {r.family for r in readings(path) if r.naming == "transformers"}
    if number is None or (number == "denoiser" and not encoders):
        return "other" if number is None else "denoiser"
    if "T5" in encoders:
        return "t5"
    if "CLIP" in encoders:
        return "clip_g" if number == "2" else "clip"
    return "other"


def labelled(target: str) -> tuple[str, Label | None, str]:
    """The prefix of a target's name in any style, the label of what it means, and the rest.

    The label is None if the prefix means no certain model, or there is none.

    >>> labelled("text_encoder_2.text_model.final_layer_norm.weight")
    ('text_encoder_2.', '2', 'text_model.final_layer_norm.weight')
    """
    prefix = flattened_prefix(target)
    labels = _FLATTENED
    if not prefix:
        prefix = next((prefix for prefix in _DOTTED if target.startswith(prefix)), "")
        labels = _DOTTED
    label = None if prefix == "lycoris_" else labels.get(prefix)
    return prefix, label, target.removeprefix(prefix)


def spelled(part: Part, style: Style) -> str | None:
    """The prefix of a part in this style; None if it depends on the model, or there is none."""
    return _SPELLED.get((style, part))
