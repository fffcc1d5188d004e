"""What loratools recognises but cannot read, so that errors can name it.

These are dialects that it may read one day, and files that are no adapters at all.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple, final

from loratools.typed import worded


@final
class Sight(NamedTuple):
    """How to recognise a dialect that has no folder in `formats/` yet.

    Attributes:
        dialect: the name that its folder will have.
        keys: a regular expression; the dialect is recognised where it matches a part of any key.
        name: what errors call an adapter in this dialect.
        weights: the fixed name of the weights file in an adapter's folder, if there is one.
    """

    dialect: str
    keys: str
    name: str
    weights: str | None = None


#: The first row whose pattern matches a key decides. A row is ignored once its dialect has a
#: folder, because the dialect then claims its files itself.
KNOWN_BY_SIGHT = (Sight("lycoris", r"\.(lokr_w[12]|hada_w[12])(_[ab])?$", "a LyCORIS adapter"),)


def seen(keys: Iterable[str], readable: Iterable[str]) -> str | None:
    """The name of the first dialect with such keys that is not one of the `readable` dialects."""
    keys, readable = tuple(keys), set(readable)
    for sight in KNOWN_BY_SIGHT:
        if sight.dialect not in readable and any(re.search(sight.keys, key) for key in keys):
            return sight.name
    return None


@final
class Stranger(NamedTuple):
    """How to recognise a file that is no adapter, though people take it for one.

    Attributes:
        keys: a regular expression; the file is recognised where it matches a part of any key.
        name: what errors call it.
        told: what to do with it.
        in_python: the same for Python, if it names an option or a command.
        every: whether it has to match each key, and the whole of it.
    """

    keys: str
    name: str
    told: str
    every: bool = False
    in_python: str | None = None

    @property
    def advice(self) -> str:
        """What to do with it."""
        return self.told if self.in_python is None else worded(self.told, self.in_python)


_TEXTUAL_INVERSION = (
    "a textual inversion",
    "it adds words to a text encoder and changes no weight; diffusers loads it with "
    "load_textual_inversion",
)
_HYPERNETWORK = (
    "a hypernetwork",
    "it computes keys and values beside the weights of a model, and is no change of them",
)
_IN_ITS_FOLDER = "name the file of weights that was saved with it"

#: The first row that matches decides. In pickles that hold more than tensors, keys are also those
#: of dicts in the dict, with a dot between.
NO_ADAPTERS = (
    Stranger(
        r"^(optimizer_state_dict|optimizer_states|param_groups|lr_schedulers|loss_scaler)(\.|$)",
        "the state of a training",
        _IN_ITS_FOLDER,
    ),
    Stranger(r"^ds_(version|config)$", "the state of a training by DeepSpeed", _IN_ITS_FOLDER),
    Stranger(r"^string_to_param(\.|$)|^emb_params$", *_TEXTUAL_INVERSION),
    Stranger(r"<.+>|clip_[lg]|t5xxl", *_TEXTUAL_INVERSION, every=True),
    Stranger(r"^(layer_structure|activation_func)$", *_HYPERNETWORK),
    Stranger(r"(320|640|768|1024|1280|2048)(\..*)?|step|name|sd_\w+", *_HYPERNETWORK, every=True),
    Stranger(
        r"^(image_proj|ip_adapter|image_proj_model|adapter_modules|ip_adapter_proj_model)(\.|$)"
        r"|\.ip_adapter_",
        "an IP-Adapter",
        "it adds attention to an image, with layers of its own; diffusers loads it with "
        "load_ip_adapter",
    ),
    Stranger(
        r"^control_model\.|^controlnet_(cond_embedding|down_blocks|mid_block|blocks|x_embedder)\b"
        r"|^input_hint_block\.|^zero_convs\.",
        "a ControlNet",
        "it is a model of its own, which runs beside another one",
    ),
    Stranger(
        r"^(adapter\.)?body\.\d+\.(resnets\.\d+\.)?(block\d|in_conv|down_opt|skep)\b",
        "a T2I-Adapter",
        "it is a model of its own, which runs beside another one",
    ),
    Stranger(
        r"\bmotion_modules\.\d+\.",
        "a motion module of AnimateDiff",
        "it adds layers to a model; diffusers loads it as a MotionAdapter",
    ),
    Stranger(
        r"^(model\.diffusion_model|cond_stage_model|conditioner\.embedders)\.",
        "a whole checkpoint",
        "name an adapter in its place, or make one of a fine-tuned model with `loratools "
        "svd-extract MODEL BASE --rank 16 -o OUT`",
        in_python="name an adapter in its place, or make one of a fine-tuned model with "
        "svd_extract(model, base, rank=16)",
    ),
    Stranger(
        r"^first_stage_model\.|^(post_)?quant_conv\.|^decoder\.(up|up_blocks|mid|mid_block)\.",
        "a VAE",
        "it is a model, and no adapter of those that loratools reads changes one",
    ),
    Stranger(
        r"\.dropout_p$",
        "the settings of LoRA layers, without the factors",
        "whatever saved it has left out what was trained, which is nowhere in it",
    ),
    Stranger(
        r"(^|\.)(embed_tokens|wte|word_embeddings|q_proj|query|query_key_value|c_attn|to_q|qkv|"
        r"time_embedding\.linear_1|patch_embed\w*\.proj)\.weight$",
        "the weights of a model",
        "name an adapter in its place, or make one of a fine-tuned model with `loratools "
        "svd-extract MODEL BASE --rank 16 -o OUT` (home-made LoRA layers in it are read with "
        "--keys)",
        in_python="name an adapter in its place, or make one of a fine-tuned model with "
        "svd_extract(model, base, rank=16) (home-made LoRA layers in it are read with "
        "dialect_options={'keys': …})",
    ),
)


def no_adapter(keys: Iterable[str]) -> str | None:
    """What a file with such keys is, if that is known and no adapter, and what to do with it."""
    keys = tuple(keys)
    for stranger in NO_ADAPTERS:
        pattern = re.compile(stranger.keys)
        found = map(pattern.fullmatch if stranger.every else pattern.search, keys)
        if keys and (all(found) if stranger.every else any(found)):
            return f"not an adapter but {stranger.name}: {stranger.advice}"
    return None
