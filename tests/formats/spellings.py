"""One small file for each trainer and each way in which it spells a LoRA, with what it does.

The numbers are small integers, and the scalings are powers of two, so that updates are exact in
float64. What an update does is computed here from the tensors by the formula of its kind, without
the package.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

RANK = 4
ROWS, COLUMNS = 6, 5


@dataclass(frozen=True)
class Spelled:
    """A file as a trainer writes it, and what it means.

    Attributes:
        trainer: the writer, and what it trains or how it spells it.
        dialect: the dialect that reads the file.
        tensors: the tensors in file order.
        weights: the name of each weight that is changed, with its value before and after.
        origin: where the scaling of all updates is found.
        metadata: the metadata of the safetensors file.
        config: the config beside it.
        kinds: the kinds of update, in order of appearance.
        replaced: whole tensors that take the place of others, by the name of a parameter.
        inert: the keys of tensors that have no effect on the model.
    """

    trainer: str
    dialect: str
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, tuple[Tensor, Tensor]]
    origin: str = "tensor"
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    kinds: tuple[str, ...] = ("LoRA",)
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    inert: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ends:
    """The ends of the keys of a module: of its factors, and of its alpha if one is stored."""

    down: str
    up: str
    alpha: str | None = None


KOHYA = Ends(".lora_down.weight", ".lora_up.weight", ".alpha")
KOHYA_WITHOUT_ALPHA = Ends(".lora_down.weight", ".lora_up.weight")
PEFT = Ends(".lora_A.weight", ".lora_B.weight")


class Numbers:
    """A source of small integers that are the same in each run."""

    def __init__(self, seed: int) -> None:
        """Begin at a seed."""
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, *shape: int) -> Tensor:
        """Integers from -3 to 3 in float32."""
        return torch.randint(-3, 4, shape, generator=self._generator).float()


def product(up: Tensor, down: Tensor, scaling: float) -> Tensor:
    """`scaling * up @ down` in float64, each factor seen as a matrix."""
    return scaling * (up.flatten(1).double() @ down.flatten(1).double())


def linears(
    trainer: str,
    dialect: str,
    ends: Ends,
    *stems: str,
    names: Sequence[str] = (),
    alpha: float = 2.0,
    scaling: float | None = None,
    **others: Any,
) -> Spelled:
    """A LoRA on a linear layer for each stem, whose weight is `stem.weight` or one of the `names`.

    The `scaling` is that of a stored alpha, and 1 without one, unless something else states it.
    """
    numbers = Numbers(len(trainer))
    if scaling is None:
        scaling = alpha / RANK if ends.alpha is not None else 1.0
    tensors: dict[str, Tensor] = {}
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for number, stem in enumerate(stems):
        rows = ROWS + number
        down, up = numbers.draw(RANK, COLUMNS), numbers.draw(rows, RANK)
        tensors |= {f"{stem}{ends.down}": down, f"{stem}{ends.up}": up}
        if ends.alpha is not None:
            tensors[f"{stem}{ends.alpha}"] = torch.tensor(alpha)
        before = numbers.draw(rows, COLUMNS).double()
        name = names[number] if names else f"{stem}.weight"
        weights[name] = before, before + product(up, down, scaling)
    others.setdefault("origin", "tensor" if ends.alpha is not None else "assumed")
    return Spelled(trainer, dialect, tensors, weights, **others)


def _kohya() -> Iterator[Spelled]:
    yield linears(
        "sd-scripts, SD 1 and 2",
        "kohya",
        KOHYA,
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
    )
    yield linears(
        "sd-scripts, SDXL",
        "kohya",
        KOHYA,
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    )
    yield linears(
        "SDXL with the names of diffusers",
        "kohya",
        KOHYA,
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
    )
    yield linears(
        "sd-scripts, SD3",
        "kohya",
        KOHYA,
        "lora_unet_joint_blocks_0_x_block_attn_qkv",
        "lora_unet_joint_blocks_0_context_block_adaLN_modulation_1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
    )
    yield linears(
        "sd-scripts, Flux.1 and Chroma",
        "kohya",
        KOHYA,
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lora_unet_single_blocks_0_linear1",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    )
    yield linears("sd-scripts, Lumina 2", "kohya", KOHYA, "lora_unet_layers_0_attention_qkv")
    yield linears(
        "sd-scripts, HunyuanImage",
        "kohya",
        KOHYA,
        "lora_unet_double_blocks_0_img_mlp_fc1",
        "lora_unet_double_blocks_0_img_mod_linear",
    )
    yield linears(
        "sd-scripts, Anima",
        "kohya",
        KOHYA,
        "lora_unet_blocks_0_cross_attn_k_proj",
        "lora_te_layers_0_self_attn_q_proj",
    )
    yield linears(
        "musubi-tuner, Wan",
        "kohya",
        KOHYA,
        "lora_unet_blocks_0_self_attn_q",
        "lora_unet_blocks_0_cross_attn_k_img",
        "lora_unet_blocks_0_ffn_0",
    )
    yield linears(
        "musubi-tuner, Qwen-Image",
        "kohya",
        KOHYA,
        "lora_unet_transformer_blocks_0_attn_to_q",
        "lora_unet_transformer_blocks_0_img_mod_1",
    )
    yield linears("LyCORIS, as a wrapper", "kohya", KOHYA, "lycoris_blocks_0_self_attn_q")
    yield linears("Wan-Fun", "kohya", KOHYA, "lora_unet__blocks_0_cross_attn_k")
    yield linears(
        "Stable Cascade",
        "kohya",
        KOHYA,
        "lora_prior_unet_down_blocks_0_1_attention_attn_in_proj",
        "lora_prior_te_text_model_encoder_layers_0_mlp_fc1",
    )
    yield linears(
        "kohya without any alpha",
        "kohya",
        KOHYA_WITHOUT_ALPHA,
        "lora_unet_mid_block_attentions_0_proj_in",
    )
    yield linears(
        "kohya's parts after names with dots",
        "kohya",
        KOHYA,
        "transformer_blocks.0.attn.to_k",
        "transformer_blocks.0.attn.to_out.0",
    )
    yield linears(
        "PEFT's parts after flattened names",
        "kohya",
        Ends(".lora_A.weight", ".lora_B.weight", ".alpha"),
        "lora_unet_mid_block_attentions_0_proj_in",
    )
    yield linears(
        "OneTrainer, Flux.1",
        "kohya",
        KOHYA,
        "lora_transformer_transformer_blocks_0_attn_to_q",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_encoder_block_0_layer_0_SelfAttention_q",
    )
    yield _bundled()
    yield _convolutions()
    yield _tucker()
    yield _doras("LyCORIS, DoRA", axis=0)
    yield _doras("OneTrainer, DoRA", axis=1)


def _bundled() -> Spelled:
    lora = linears("OneTrainer, with an embedding", "kohya", KOHYA, "lora_unet_mid_block_proj")
    key = "bundle_emb.mine.string_to_param.*"
    tensors = {**lora.tensors, key: Numbers(5).draw(2, 8)}
    return replace(lora, tensors=tensors, inert=(key,))


def _convolutions() -> Spelled:
    numbers = Numbers(1)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for number, kernel in enumerate([(3, 3), (1, 1), (3,), (1, 3, 3)]):
        stem = f"lora_unet_down_blocks_{number}_resnets_0_conv1"
        ones = (1,) * len(kernel)
        down, up = numbers.draw(RANK, COLUMNS, *kernel), numbers.draw(ROWS, RANK, *ones)
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors[f"{stem}.alpha"] = torch.tensor(1.0)
        before = numbers.draw(ROWS, COLUMNS, *kernel).flatten(1).double()
        weights[f"{stem}.weight"] = before, before + product(up, down, 1 / RANK)
    return Spelled("LyCORIS, LoCon", "kohya", tensors, weights)


def _tucker() -> Spelled:
    numbers = Numbers(3)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for number, kernel in enumerate([(3, 3), (3,)]):
        stem, ones = f"lora_unet_down_blocks_{number}_resnets_0_conv1", (1,) * len(kernel)
        down, mid = numbers.draw(RANK, COLUMNS, *ones), numbers.draw(RANK, RANK, *kernel)
        up = numbers.draw(ROWS, RANK, *ones)
        parts = {"alpha": torch.tensor(2.0), "lora_down.weight": down}
        parts |= {"lora_mid.weight": mid, "lora_up.weight": up}
        tensors |= {f"{stem}.{part}": tensor for part, tensor in parts.items()}
        before = numbers.draw(ROWS, COLUMNS, *kernel).flatten(1).double()
        change = torch.einsum(
            "mnk,om,ni->oik", mid.flatten(2).double(), up.flatten(1).double(),
            down.flatten(1).double(),
        )  # fmt: skip
        weights[f"{stem}.weight"] = before, before + 2 / RANK * change.flatten(1)
    return Spelled(
        "LyCORIS, LoCon with a Tucker core", "kohya", tensors, weights, kinds=("Tucker LoCon",)
    )


def _doras(trainer: str, axis: int) -> Spelled:
    """A DoRA of a linear layer and of a convolution, whose magnitudes are along an axis."""
    numbers = Numbers(4)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for stem, kernel in (("lora_unet_mid_block_attn", ()), ("lora_unet_mid_block_conv", (3, 3))):
        ones = (1,) * len(kernel)
        down, up = numbers.draw(RANK, COLUMNS, *kernel), numbers.draw(ROWS, RANK, *ones)
        shape = (ROWS, 1, *ones) if axis == 0 else (1, COLUMNS, *ones)
        magnitude = numbers.draw(*shape).abs() + 1
        parts = {"alpha": torch.tensor(2.0), "dora_scale": magnitude}
        parts |= {"lora_down.weight": down, "lora_up.weight": up}
        tensors |= {f"{stem}.{part}": tensor for part, tensor in parts.items()}
        before = numbers.draw(ROWS, COLUMNS, *kernel).double()
        moved = before + product(up, down, 2 / RANK).reshape(before.shape)
        others = [dimension for dimension in range(moved.dim()) if dimension != axis]
        norms = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
        after = magnitude.double() * moved / norms
        weights[f"{stem}.weight"] = before.flatten(1), after.flatten(1)
    return Spelled(trainer, "kohya", tensors, weights, kinds=("DoRA",))


def _peft() -> Iterator[Spelled]:
    yield linears(
        "PEFT",
        "peft",
        PEFT,
        "base_model.model.model.layers.0.self_attn.q_proj",
        "base_model.model.model.layers.0.mlp.up_proj",
        names=("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        scaling=0.5,
        origin="config",
        config={"peft_type": "LORA", "r": RANK, "lora_alpha": 2, "target_modules": "all-linear"},
    )


def _diffusers() -> Iterator[Spelled]:
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    text = "text_model.encoder.layers.0.self_attn"
    yield linears(
        "diffusers, attention processors",
        "diffusers",
        Ends("_lora.down.weight", "_lora.up.weight"),
        f"unet.{block}.processor.to_q",
        f"unet.{block}.processor.to_out",
        names=(f"unet.{block}.to_q.weight", f"unet.{block}.to_out.0.weight"),
    )
    yield linears(
        "diffusers, attention processors without a component",
        "diffusers",
        Ends("_lora.down.weight", "_lora.up.weight"),
        f"{block}.processor.to_k",
        names=(f"unet.{block}.to_k.weight",),
    )
    yield linears(
        "diffusers, layers before PEFT",
        "diffusers",
        Ends(".lora.down.weight", ".lora.up.weight"),
        f"unet.{block}.to_k",
    )
    yield linears(
        "diffusers, text encoders before PEFT",
        "diffusers",
        Ends(".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        f"text_encoder.{text}.q_proj",
        f"text_encoder_2.{text}.q_proj",
    )
    yield linears(
        "diffusers with PEFT, several components",
        "diffusers",
        PEFT,
        f"unet.{block}.to_q",
        f"text_encoder.{text}.q_proj",
        f"text_encoder_2.{text}.q_proj",
    )
    yield linears(
        "ai-toolkit, Flux.1",
        "diffusers",
        PEFT,
        "transformer.transformer_blocks.0.attn.to_q",
        "transformer.single_transformer_blocks.0.attn.to_k",
    )
    yield linears(
        "diffusers with PEFT, and metadata",
        "diffusers",
        PEFT,
        "transformer.transformer_blocks.0.attn.to_q",
        scaling=0.5,
        origin="metadata",
        metadata=_diffusers_metadata(r=RANK, lora_alpha=2),
    )
    yield linears(
        "diffusers with PEFT, rank-stabilised by its metadata",
        "diffusers",
        PEFT,
        "transformer.transformer_blocks.0.attn.to_q",
        scaling=1.0,
        origin="metadata",
        kinds=("rsLoRA",),
        metadata=_diffusers_metadata(r=RANK, lora_alpha=2, use_rslora=True),
    )
    for wrapper in ("transformer.base_model.model.", "unet.base_model.model."):
        component = wrapper.partition(".")[0]
        yield linears(
            f"PEFT inside of a component, {component}",
            "diffusers",
            PEFT,
            f"{wrapper}transformer_blocks.0.attn.to_q",
            names=(f"{component}.transformer_blocks.0.attn.to_q.weight",),
        )


def _diffusers_metadata(**fields: Any) -> dict[str, str]:
    fields = {"target_modules": ["to_q"], **fields}
    own = {f"transformer.{name}": value for name, value in fields.items()}
    return {"lora_adapter_metadata": json.dumps(own)}


def _comfyui() -> Iterator[Spelled]:
    yield linears(
        "ComfyUI, LoraSave",
        "comfyui",
        KOHYA_WITHOUT_ALPHA,
        "diffusion_model.double_blocks.0.img_attn.qkv",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj",
    )
    yield linears("ComfyUI, with alpha", "comfyui", KOHYA, "diffusion_model.blocks.0.self_attn.q")
    mixed = linears("diffusers' names beside kohya's", "comfyui", PEFT, "transformer.blocks.0.to_q")
    beside = linears("", "comfyui", KOHYA_WITHOUT_ALPHA, "lora_te1_text_model_encoder_layers_0_fc1")
    yield replace(
        mixed,
        tensors={**mixed.tensors, **beside.tensors},
        weights={**mixed.weights, **beside.weights},
    )
    yield linears("ai-toolkit, Wan", "comfyui", PEFT, "diffusion_model.blocks.0.self_attn.q")
    yield linears(
        "ComfyUI, PEFT's names with alpha",
        "comfyui",
        Ends(".lora_A.weight", ".lora_B.weight", ".alpha"),
        "diffusion_model.layers.0.attention.qkv",
    )


def _loralib() -> Iterator[Spelled]:
    yield linears(
        "microsoft/LoRA",
        "loralib",
        Ends(".lora_A", ".lora_B"),
        "roberta.encoder.layer.0.attention.self.query",
    )


def _mlx() -> Iterator[Spelled]:
    numbers = Numbers(2)
    stem = "model.layers.0.self_attn.q_proj"
    before = numbers.draw(ROWS, COLUMNS).double()
    below, above = numbers.draw(COLUMNS, RANK), numbers.draw(RANK, ROWS)
    yield Spelled(
        "mlx-lm",
        "mlx",
        {f"{stem}.lora_a": below, f"{stem}.lora_b": above},
        {f"{stem}.weight": (before, before + product(above.T, below.T, 2.0))},
        origin="config",
        config={
            "fine_tune_type": "lora",
            "num_layers": 1,
            "lora_parameters": {"rank": RANK, "scale": 2.0, "dropout": 0.0},
        },
    )


def _xlabs() -> Iterator[Spelled]:
    ends = Ends(".down.weight", ".up.weight")
    block = "double_blocks.0.processor"
    both = linears(
        "XLabs",
        "xlabs",
        ends,
        f"{block}.qkv_lora1",
        f"{block}.proj_lora2",
        names=("double_blocks.0.img_attn.qkv.weight", "double_blocks.0.txt_attn.proj.weight"),
    )
    # Queries, keys and values are three of the seven parts of what `linear1` computes.
    stem = "single_blocks.0.processor.qkv_lora"
    one = linears("", "xlabs", ends, stem)
    before, after = one.weights[f"{stem}.weight"]
    before = torch.cat([before, torch.ones(ROWS // 3 * 4, COLUMNS)])
    weight = before, torch.cat([after, before[ROWS:]])
    yield replace(
        both,
        tensors={**both.tensors, **one.tensors},
        weights={**both.weights, "single_blocks.0.linear1.weight": weight},
    )


def _bfl() -> Iterator[Spelled]:
    stem, norm = "double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.norm.query_norm.scale"
    plain = linears("Black Forest Labs, LoRA", "bfl", PEFT, stem)
    yield plain
    numbers = Numbers(6)
    bias, before, scale = numbers.draw(ROWS), numbers.draw(ROWS).double(), numbers.draw(COLUMNS)
    yield replace(
        plain,
        trainer="Black Forest Labs, control LoRA",
        tensors={**plain.tensors, f"{stem}.lora_B.bias": bias, norm: scale},
        weights={**plain.weights, f"{stem}.bias": (before[:, None], (before + bias)[:, None])},
        kinds=("LoRA", "diff"),
        replaced={norm: scale},
    )


def _control_lora() -> Iterator[Spelled]:
    plain = linears(
        "Stability AI, Control-LoRA",
        "control_lora",
        Ends(".down", ".up"),
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    )
    whole = {"input_hint_block.0.bias": Numbers(7).draw(ROWS)}
    mark = {"lora_controlnet": torch.zeros(0)}
    yield replace(
        plain, tensors={**plain.tensors, **whole, **mark}, replaced=whole, inert=tuple(mark)
    )


SPELLED: tuple[Spelled, ...] = (
    *_kohya(),
    *_peft(),
    *_diffusers(),
    *_comfyui(),
    *_mlx(),
    *_loralib(),
    *_xlabs(),
    *_bfl(),
    *_control_lora(),
)
