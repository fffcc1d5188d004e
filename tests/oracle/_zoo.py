"""Tiny models of every layer type that LoRA can wrap, and adapters that PEFT makes for them."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

TOKENS = (3, 0, 7)
Bias = Literal["none", "all", "lora_only"]


class Zoo(nn.Module):
    """Every layer type whose weight is stored as (out, in). `size` 1 is tiny."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(14 * size, 10 * size)
        self.unbiased = nn.Linear(5, 4, bias=False)
        self.conv1d_k1 = nn.Conv1d(9 * size, 11 * size, 1)
        self.conv1d_k3 = nn.Conv1d(6 * size, 5 * size, 3, padding=1)
        self.conv2d_k1 = nn.Conv2d(9 * size, 11 * size, 1)
        self.conv2d_k3 = nn.Conv2d(3 * size, 4 * size, 3)
        self.conv3d_k3 = nn.Conv3d(3 * size, 2 * size, 3)
        self.conv3d_k311 = nn.Conv3d(6 * size, 5 * size, (3, 1, 1), stride=2)
        self.embedding = nn.Embedding(11 * size, 10 * size)
        self.attention = nn.MultiheadAttention(6 * size, 2)
        self.norm = nn.LayerNorm(5)
        self.tokens = nn.Embedding(8, 3)
        self.head = nn.Linear(5, 3)


class TransposedZoo(nn.Module):
    """Hugging Face's Conv1D, whose weight is stored as (in, out)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.fused = Conv1D(14 * size, 9 * size)
        self.square = Conv1D(11 * size, 11 * size)
        self.embedding = nn.Embedding(11 * size, 10 * size)
        self.norm = nn.LayerNorm(5)
        self.tokens = nn.Embedding(8, 3)
        self.head = nn.Linear(5, 3)


@final
@dataclass(frozen=True)
class Settings:
    """One adapter: what it is trained with, and on which base."""

    zoo: type[nn.Module] = Zoo
    size: int = 1
    dtype: torch.dtype = torch.float32
    adapter_dtype: torch.dtype = torch.float32
    dora: bool = False
    rslora: bool = False
    patterns: bool = False
    bias: Bias = "none"
    lora_bias: bool = False
    saved: bool = False
    tokens: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The settings that are on."""
        on = ["dora" if self.dora else "lora"]
        names = ("rslora", "patterns", "lora_bias", "saved", "tokens")
        on += [name for name in names if getattr(self, name)]
        on += [f"bias_{self.bias}"] if self.bias != "none" else []
        dtypes = (("", self.dtype), ("adapter_", self.adapter_dtype))
        on += [f"{of}{str(dtype)[6:]}" for of, dtype in dtypes if dtype != torch.float32]
        return "-".join([self.zoo.__name__, *on])

    def targets(self, model: nn.Module) -> list[str]:
        """The layers that PEFT can wrap with these settings, each by its own class."""
        refused: tuple[type[nn.Module], ...] = (nn.LayerNorm,)
        refused += (nn.MultiheadAttention,) if self.dora else ()
        refused += (nn.Embedding,) if self.lora_bias else ()
        return [
            name
            for name, layer in model.named_children()
            if not isinstance(layer, refused)
            and name not in {"tokens", "head"}
            and not (self.lora_bias and name == "unbiased")
        ]

    def config(self, model: nn.Module) -> LoraConfig:
        """PEFT's configuration: rank 4 and alpha 6, but for those with patterns."""
        patterns = {
            # Two hit the 3d convolutions, and the first counts; PEFT saves them sorted, as they
            # are here. «near» hits nothing.
            "rank_pattern": {"(conv3.*)": 2, "(fused|linear)": 5, "conv.*": 3, "near": 7},
            "alpha_pattern": {r"conv\dd_k3\d*": 5, "embedding": 3, "s.*": 8.5},
        }
        return LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=self.targets(model),
            use_dora=self.dora,
            use_rslora=self.rslora,
            bias=self.bias,
            lora_bias=self.lora_bias,
            modules_to_save=["head"] if self.saved else None,
            trainable_token_indices={"tokens": list(TOKENS)} if self.tokens else None,
            fan_in_fan_out=self.zoo is TransposedZoo,
            **{**(patterns if self.patterns else {}), **self.more},
        )


@final
@dataclass(frozen=True)
class Made:
    """What PEFT made: the files in `folder`, and what it alone knows.

    `scalings` are those of PEFT's live layers, by module; `layers` are the base's own.
    """

    settings: Settings
    folder: Path
    base: Mapping[str, Tensor]
    layers: Mapping[str, nn.Module]
    scalings: Mapping[str, float]
    model: PeftModel

    def peft_merge(self) -> Mapping[str, Tensor]:
        """PEFT's own merge, which uses the model up."""
        merged: Mapping[str, Tensor] = self.model.merge_and_unload().state_dict()
        return merged


def make(settings: Settings, folder: Path, seed: int = 0) -> Made:
    """An adapter of random values, saved by PEFT beside the base it belongs to."""
    torch.manual_seed(seed)
    model = settings.zoo(settings.size).to(settings.dtype)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = dict(model.named_modules())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following .*_pattern keys did not match")
        warnings.filterwarnings("ignore", "`lora_bias=True` was passed but .*MultiheadAttention")
        peft_model = get_peft_model(
            model,
            settings.config(model),
            autocast_adapter_dtype=settings.adapter_dtype == torch.float32,
        )
    _perturb(peft_model)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(base, folder / "base.safetensors")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Adapter 'default': .* have invalid shape")
        peft_model.save_pretrained(str(folder / "adapter"))
    scalings = {
        name.removeprefix("base_model.model."): layer.scaling["default"]
        for name, layer in peft_model.named_modules()
        if "default" in getattr(layer, "scaling", ())
    }
    return Made(settings, folder, base, layers, scalings, peft_model)


@torch.no_grad()
def _perturb(model: nn.Module) -> None:
    """As if trained: updates about as large as the weights, and magnitudes off their norms."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        noise = torch.randn(parameter.shape).to(parameter.dtype)
        if "magnitude" in name:
            parameter.mul_(torch.exp(noise / 4))
        elif "trainable_tokens" in name or "lora_diag" in name:
            parameter.copy_(noise)
        else:
            parameter.add_(noise / 8)
